"""A synthetic hospital in MIMIC-III's shape: invented patients, stays and notes.

A patient's traits (lives alone, misses doses, ...) decide how the notes read and how likely an
unplanned return is. Text and return never see each other: each is drawn from its own stream.
"""

from __future__ import annotations

import csv
import math
import os
import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

T = TypeVar("T")
Cells = list[Any]

HEADERS = {
    "PATIENTS.csv": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG",
    "ADMISSIONS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,ADMISSION_TYPE,"
    "ADMISSION_LOCATION,DISCHARGE_LOCATION,INSURANCE,LANGUAGE,RELIGION,MARITAL_STATUS,ETHNICITY,"
    "EDREGTIME,EDOUTTIME,DIAGNOSIS,HOSPITAL_EXPIRE_FLAG,HAS_CHARTEVENTS_DATA",
    "NOTEEVENTS.csv": "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,"
    "DESCRIPTION,CGID,ISERROR,TEXT",
    "PLANTED_RISK.csv": "HADM_ID,RISK",
}
MOST_STAYS = 8
MEAN_STAY_HOURS = 180
SAID = 0.82  # how often a note says yes or no to a trait
UNPLANNED = ("EMERGENCY", "EMERGENCY", "EMERGENCY", "EMERGENCY", "URGENT")


class Trait(NamedTuple):
    """What moves the risk of a return: how common, how strong (log odds), where notes say it."""

    share: float
    weight: float
    topics: tuple[str, str]


TRAITS = {
    "lives alone": Trait(0.40, 0.85, ("social", "history")),
    "misses doses": Trait(0.40, 1.10, ("history", "medicines")),
    "heart failure": Trait(0.35, 1.10, ("background", "plan")),
    "prior admissions": Trait(0.30, 0.90, ("history", "background")),
    "active drinking": Trait(0.30, 0.80, ("social", "background")),
    "kidney disease": Trait(0.35, 0.75, ("background", "labs")),
    "follow-up arranged": Trait(0.50, -0.90, ("social", "plan")),
}


def sentences(table: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: " ".join(parts.split()).split(" | ") for name, parts in table.items()}


STATED = sentences(
    {
        "lives alone": """{He} lives alone in a walk-up apartment. | Lives by {himself}, nobody
            else in the house. | Lives alone, no one at home to help.""",
        "misses doses": """{He} admits to missing doses several times a week. | Ran out of
            medications two weeks ago and did not refill them. | Nonadherent with home
            medications per the pharmacy.""",
        "heart failure": """Chronic systolic heart failure, last EF {low_ef}%. | Known CHF on a
            daily diuretic. | Heart failure with several decompensations, dry weight {kg} kg.""",
        "prior admissions": """This is the {nth} admission this year. | Multiple
            hospitalizations over the past twelve months. | Frequently admitted and well known
            to this service.""",
        "active drinking": """Drinks a pint of vodka daily. | Active alcohol use, last drink the
            day before arrival. | Continues to drink heavily, {few} beers a night.""",
        "kidney disease": """Chronic kidney disease stage {stage}, baseline creatinine
            {high_cr}. | CKD followed by nephrology. | Renal insufficiency with creatinine
            around {high_cr}.""",
        "follow-up arranged": """Follow-up with the primary care doctor is booked within a week.
            | Visiting nurse arranged through case management. | Good support, friends will
            drive {him} to every clinic visit.""",
    }
)
DENIED = sentences(
    {
        "lives alone": """{He} lives with {his} daughter, who helps every day. | Lives with
            spouse in a two-story house. | Shares a home with family who are at the bedside.""",
        "misses doses": """Takes all medications as prescribed. | Uses a weekly pillbox with no
            missed doses. | Adherent to the home regimen per refill records.""",
        "heart failure": """No history of heart failure. | Normal ejection fraction on the last
            echo. | Never diagnosed with CHF, left ventricular function preserved.""",
        "prior admissions": """No admissions in the past year. | First hospitalization in many
            years. | Has not been an inpatient for as long as {he} remembers.""",
        "active drinking": """Denies alcohol use. | Sober with no alcohol for over ten years. |
            Abstains from alcohol and always has.""",
        "kidney disease": """No known kidney disease. | Normal renal function at baseline. |
            Kidney function has always been normal.""",
        "follow-up arranged": """No primary care doctor and no follow-up arranged. | Declines
            home services and has nobody to take {him} to clinic. | Poor support, has not kept
            past clinic appointments.""",
    }
)
COMPLAINTS = {
    "PNEUMONIA": "fever and a productive cough",
    "SEPSIS": "rigors, confusion and low blood pressure",
    "UPPER GI BLEED": "black stools and lightheadedness",
    "SYNCOPE": "a witnessed collapse while standing",
    "HIP FRACTURE": "hip pain after a fall from standing height",
    "CELLULITIS": "spreading redness and warmth of the lower leg",
    "UROSEPSIS": "flank pain and burning urination",
    "COPD EXACERBATION": "wheezing and increased sputum",
    "PANCREATITIS": "severe epigastric pain and vomiting",
    "CHEST PAIN": "substernal pressure at rest",
    "SMALL BOWEL OBSTRUCTION": "abdominal distension and no flatus",
    "STROKE": "sudden weakness of one arm and slurred speech",
    "PULMONARY EMBOLISM": "pleuritic pain and breathlessness",
    "ATRIAL FIBRILLATION": "palpitations and fatigue",
}
SURGERY = {
    "AORTIC STENOSIS": "planned valve replacement",
    "KNEE OSTEOARTHRITIS": "planned knee replacement",
    "COLON CANCER": "planned partial colectomy",
    "CAROTID STENOSIS": "planned endarterectomy",
}
BIRTH = {"NEWBORN": "routine newborn care"}
DONOR = ("ORGAN DONOR ACCOUNT", "organ donation")

FILLERS = sentences(
    {
        "history": """{age} year old {person} who comes in with {complaint}. | Seen in the
            emergency department, where the first pressure was {sbp}/{dbp}. | Symptoms began
            {few} days ago and have slowly become worse. | Transferred by ambulance from
            {hospital} after initial treatment there. | Denies sick contacts, recent travel or
            new foods. | Review of systems is otherwise negative in {many} points. | {His}
            appetite has been poor and {he} lost about {few} kg. | Received {few} liters of
            crystalloid and one dose of {drug} before coming up. | Dr. {name} was told of the
            arrival at {clock}. | Overnight {he} slept in short stretches and asked for {drug}
            once. | The story was taken from the patient and from the record of {date}. | Now
            with {complaint}, less marked than at the first visit.""",
        "background": """Hypertension, treated for {many} years. | Type 2 diabetes with a last
            A1c of {a1c}%. | Hyperlipidemia. | Gastroesophageal reflux. | Osteoarthritis of the
            {side} knee. | Cataract surgery on the {side} eye, {date}. | Appendectomy as a young
            adult. | Hypothyroidism on stable replacement. | Mild asthma, never intubated. |
            Gout, last flare {few} years ago. | Herniorrhaphy on the {side} at {hospital}.""",
        "social": """Retired from work as a {job}. | Former smoker, stopped {many} years ago. |
            Never used tobacco. | No intravenous drug use. | Health care proxy is {name}, phone
            {phone}. | Worked as a {job} until recently. | Chaplain visited on {date} at the
            request of the patient. | Walks with a cane outdoors.""",
        "medicines": """{drug} {dose} mg by mouth daily. | {drug} {dose} mg by mouth twice a
            day. | {drug} {dose} mg every {few} hours as needed for pain. | {drug} was held on
            arrival and restarted on {date}. | {drug} {dose} mg at bedtime, may repeat once. |
            Allergic to {drug}, which causes a rash. | Dose of {drug} changed from {dose} to
            {dose} mg. | {drug} stopped on {date} for dizziness. | Insulin sliding scale, last
            glucose {glucose}.""",
        "vitals": """T {temp} HR {hr} BP {sbp}/{dbp} RR {rr} SpO2 {spo2}% on room air. | {clock}
            HR {hr}, BP {sbp}/{dbp}, RR {rr}, SpO2 {spo2}%. | {clock} temp {temp}, pulse {hr},
            pain {few} out of 10. | Intake {ml} ml, output {ml} ml over the shift. | Weight
            today {kg} kg. | Maximum temperature {temp} at {clock}, now {temp}. | Pressure range
            {sbp}/{dbp} to {sbp}/{dbp} since midnight. | Oxygen at {few} liters by nasal cannula
            with saturation {spo2}%.""",
        "exam": """Comfortable in bed, speaking in full sentences. | Pupils equal, mouth dry, no
            neck masses. | Heart sounds regular at {hr}, soft murmur at the {side} border. |
            Crackles at the {side} base, clear elsewhere. | Abdomen soft, not tender, bowel
            sounds heard. | Trace swelling of the {side} ankle, pulses felt. | Alert, knows the
            date and the name of the hospital. | Strength five out of five in the {side} arm. |
            Small bruise over the {side} forearm, no ulcers. | Gait slow but steady over {many}
            meters. | Dressing on the {side} hip dry, no redness. | Breath sounds reduced on the
            {side}, no wheeze.""",
        "labs": """{date}: WBC {wbc}, Hgb {hgb}, platelets {plt}. | Na {sodium}, K {k},
            bicarbonate {bicarb}, glucose {glucose}. | Lactate {lactate}, down from {lactate} on
            arrival. | INR {inr}, AST {enzyme}, ALT {enzyme}. | Troponin below the limit on
            {few} draws. | Blood cultures from {date} with no growth so far. | Magnesium {mg},
            phosphate {lactate}, albumin {lactate}. | Urinalysis with {few} white cells and no
            nitrite. | {clock}: Hgb {hgb}, repeat K {k}. | Chest film of {date} shows a small
            opacity at the {side} base. | Sputum grew normal flora only. | Arterial gas with pH
            {ph} on {few} liters.""",
        "systems": """Neuro: alert, follows commands, moves all limbs. | Neuro: slept from
            {clock}, easy to wake, no complaint of headache. | Resp: lungs clear in front,
            weaned to {few} liters, saturation {spo2}%. | Resp: coughing up thin sputum, used
            spirometer {few} times. | CV: sinus rhythm {hr}, no ectopy, pressure {sbp}/{dbp}. |
            CV: peripheral pulses felt, {side} foot cooler than the other. | GI: ate {few}
            spoons of breakfast, passed a brown stool at {clock}. | GI: nausea after {drug},
            settled with rest. | GU: catheter draining clear urine, {ml} ml this shift. | Skin:
            heel pads on, small red area on the {side} hip. | Pain: rates {few} out of 10,
            {drug} given at {clock} with effect. | Access: two peripheral lines in the {side}
            arm, sites clean. | Activity: out of bed to chair for {many} minutes with one
            helper. | ID: temperature {temp}, {drug} given at {clock}. | Endocrine: fingerstick
            {glucose}, covered per scale. | Safety: bed low, alarm on, call light within reach.
            | Teaching: reviewed use of {drug} and repeated it back.""",
        "course": """{He} was brought to the floor and started on {drug}. | On hospital day
            {few} the fever settled and {drug} was stopped. | Surgery was consulted and advised
            watching without operation. | Imaging on {date} showed no new collection. | Pain was
            controlled with {drug} {dose} mg. | Hemoglobin drifted to {hgb} and stayed there
            without transfusion. | {He} received {few} units of packed cells on {date}. |
            Physical therapy saw the patient and found safe stairs. | Telemetry showed sinus
            rhythm with rare ectopic beats. | Glucose ran between {glucose} and {glucose} on
            sliding scale. | Dr. {name} from {hospital} was called about earlier results. |
            Antibiotics were narrowed to {drug} on {date}. | Diet was advanced step by step and
            well tolerated. | Potassium of {k} was repleted. | A brief rise of the pulse to {hr}
            answered to fluids. | Wound care was continued for the {side} leg.""",
        "plan": """Continue {drug} and follow cultures. | Recheck counts in the morning, goal
            Hgb above {few}. | Replete potassium to above 4. | Advance diet as tolerated. |
            Physical therapy to see {him} on {date}. | Wean oxygen to keep saturation above 92%.
            | Heparin under the skin for prophylaxis. | Full code, confirmed with {name}. |
            Start {drug} {dose} mg and watch pressure. | Call the team for pulse above {hr} or
            pressure below 90. | Discussed with Dr. {name} on rounds. | Remove the urinary
            catheter by {clock}. | Repeat imaging if the pain grows worse.""",
        "reason": """{age} year old with {complaint}, please evaluate. | Question of interval
            change since {date}. | Check position of the {side} sided line.""",
        "technique": """Single portable view obtained at {clock}. | Two views compared with the
            study of {date}. | Axial images without contrast, slices of {few} mm. | Axial images
            after {many} ml of contrast.""",
        "findings": """The cardiac outline is at the upper limit of normal. | There is a small
            {side} effusion, not larger than before. | Linear atelectasis is seen at the {side}
            base. | No pneumothorax. | A line enters from the {side} and ends in a good place. |
            Bowel gas is unremarkable. | There is no acute bony injury. | A {many} mm nodule in
            the {side} upper lobe is stable. | Degenerative change of the spine is moderate. |
            No focal consolidation is identified on this examination. | The aorta is tortuous
            with mild calcification. | Liver and spleen are of normal size and texture. | Soft
            tissues on the {side} are mildly swollen.""",
        "impression": """No acute process. | Small {side} effusion, little changed from {date}.
            | Findings were called to Dr. {name} at {clock}. | Improved aeration at the {side}
            base. | Suggest a repeat study in {few} weeks.""",
        "tracing": """Sinus rhythm at {hr} with normal axis. | Atrial premature beats are
            present on this tracing. | PR interval {many}0 ms, QRS duration 9{few} ms. |
            Nonspecific ST and T wave changes in the lateral leads. | Compared with the tracing
            of {date} the rate has changed. | Left axis deviation with delayed precordial
            progression. | Low limb lead voltage, which may be a normal variant. | QT interval
            is at the upper limit for the rate. | Baseline artifact makes part of the tracing
            hard to read. | Possible old inferior infarct, age cannot be determined. | Clinical
            correlation is suggested by {name}. | No diagnostic change since the tracing of
            {date}.""",
        "birth": """Infant born at {weeks} weeks to a healthy mother on {date}. | Birth weight
            {grams} grams, cried at once. | Apgar scores {few} and 9. | Delivered without
            difficulty at {clock}. | Mother is group B strep negative, membranes ruptured at
            {clock}.""",
        "infant": """Infant pink and active, fontanelle soft and flat. | Breast feeding every
            {few} hours with a good latch. | Took {many} ml of formula well. | Voiding and
            passing meconium. | Bilirubin {lactate}, below the treatment line. | Hearing screen
            passed on both sides. | Pulse {hr}, lungs clear, no murmur. | Parents at the bedside
            and asking good questions. | Temperature {temp} in an open crib.""",
        "addendum": """Read and agreed, Dr. {name}. | Correction: the study date should read
            {date}. | Dose of {drug} should read {dose} mg. | Patient seen again at {clock}, no
            change. | Results of {date} came back and were reviewed.""",
    }
)
HEADINGS = sentences(
    {
        "history": "History of present illness | HPI | Situation | Events",
        "background": "Past medical history | PMH | Background",
        "social": "Social history | Social | Family and social",
        "medicines": "Medications | Current medications | Drugs and allergies",
        "vitals": "Vital signs | Flowsheet | Observations",
        "exam": "Physical examination | Exam | PE",
        "labs": "Laboratory data | Labs | Pertinent results",
        "systems": "Assessment by system | Review by system | Shift assessment",
        "course": "Hospital course | Brief summary of the stay",
        "plan": "Assessment and plan | A/P | Plan | Plan and disposition",
        "reason": "Reason for exam | Indication",
        "impression": "Impression | Conclusion",
        "birth": "Birth history | Delivery",
    }
)
NURSING, PHYSICIAN, RADIOLOGY, ECG = "Nursing", "Physician ", "Radiology", "ECG"
SUMMARY, NEWBORN, ADDENDUM = "Discharge summary", "NEWBORN", "Addendum"


class Kind(NamedTuple):
    """How a note is built: topics in reading order, words (median, sigma of the log), title."""

    topics: str
    median: float
    sigma: float
    title: str


SUMMARY_TITLE = "Admission Date: {admitted}   Discharge Date: {left}\nSex: {sex}   Seen by {name}"
PHYSICIAN_TOPICS = "history background social medicines vitals exam labs plan"
SUMMARY_TOPICS = "history background social exam labs course medicines plan"
KINDS = {
    PHYSICIAN: Kind(PHYSICIAN_TOPICS, 235, 0.8, "Physician note, {hospital}, {clock}"),
    NURSING: Kind("history social background systems vitals plan", 235, 0.8, "{name}, RN, {clock}"),
    SUMMARY: Kind(SUMMARY_TOPICS, 235, 0.8, SUMMARY_TITLE),
    RADIOLOGY: Kind("reason technique findings impression", 65, 0.25, "{date} {clock}, {clip}"),
    ECG: Kind("tracing", 55, 0.2, "ECG of {date}"),
    NEWBORN: Kind("birth infant", 60, 0.35, "NEWBORN NOTE {date}"),
    ADDENDUM: Kind("addendum", 18, 0.3, "ADDENDUM by {name}"),
}
CATEGORIES = {NURSING: 4, PHYSICIAN: 3, RADIOLOGY: 2, ECG: 1}
DESTINATIONS = {
    "HOME": 34,
    "HOME HEALTH CARE": 30,
    "SNF": 16,
    "REHAB/DISTINCT PART HOSP": 12,
    "LONG TERM CARE HOSPITAL": 4,
    "LEFT AGAINST MEDICAL ADVI": 2,
    "SHORT TERM HOSPITAL": 2,
}
DEMOGRAPHY = (
    ("ENGL", "ENGL", "ENGL", "SPAN", "RUSS", ""),
    ("CATHOLIC", "PROTESTANT QUAKER", "JEWISH", "NOT SPECIFIED", "UNOBTAINABLE"),
    ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED", ""),
    ("WHITE", "WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN", "HISPANIC OR LATINO"),
)
MARKS = ((": ", " ", "\n\n"), (":\n", "\n", "\n\n"), (":\n- ", "\n- ", "\n"), (" - ", " ", "\n"))
DECKS = {
    name: [(topic, filler) for topic in kind.topics.split() for filler in FILLERS[topic]]
    for name, kind in KINDS.items()
}


class Dice:
    """Chance that falls alike everywhere: only `random()` of a named seed keeps its sequence.

    Floats are added by fsum: what sum() makes of them changed with Python 3.12.
    """

    def __init__(self, *name: int | str) -> None:
        self.random = random.Random("/".join(map(str, name))).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def whole(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def pick(self, table: Sequence[T]) -> T:
        return table[int(self.random() * len(table))]

    def weighted(self, shares: Mapping[str, float]) -> str:
        mark = self.random() * sum(shares.values())
        totals = accumulate(shares.values())
        return next(name for name, total in zip(shares, totals, strict=True) if mark < total)

    def shuffled(self, items: Iterable[T]) -> list[T]:
        return sorted(items, key=lambda _: self.random())

    def normal(self) -> float:
        return math.fsum(self.random() for _ in range(12)) - 6

    def lognormal(self, median: float, sigma: float) -> float:
        return median * math.exp(sigma * self.normal())


# Low and high of the numbers in sentences, with as many decimals as are written.
NUMBERS = """few 2 8 | many 10 30 | hr 56 124 | sbp 92 178 | dbp 44 98 | rr 12 28 | spo2 90 100
    temp 96.4 102.6 | kg 48.0 118.0 | ml 100 1500 | wbc 3.4 19.0 | hgb 7.2 15.0 | plt 88 420
    sodium 128 147 | k 3.1 5.4 | bicarb 19 31 | glucose 78 290 | lactate 0.8 4.2 | inr 0.9 3.2
    enzyme 12 140 | mg 1.5 2.6 | ph 7.28 7.48 | a1c 5.6 10.5 | low_ef 15 35 | high_cr 1.7 3.9
    grams 2300 4200 | weeks 35 41"""
RANGES = {
    name: (float(low), float(high), len(low.partition(".")[2]))
    for name, low, high in (entry.split() for entry in NUMBERS.replace("\n", "|").split("|"))
}
WORDS = sentences(
    {
        "drug": """acetaminophen | amlodipine | atorvastatin | azithromycin | ceftriaxone | cefepime
            | docusate | famotidine | gabapentin | levothyroxine | lisinopril | metformin
            | metoprolol | ondansetron | oxycodone | pantoprazole | prednisone | senna
            | simvastatin | tamsulosin | trazodone | vancomycin""",
        "job": """baker | bus driver | carpenter | clerk | cook | farmer | mechanic | nurse
            | plumber | tailor | teacher""",
        "dose": "5 | 10 | 20 | 25 | 40 | 50 | 100 | 250 | 500",
        "side": "left | right",
        "nth": "third | fourth | fifth | sixth",
        "stage": "III | IV",
    }
)
MARKED = {
    "hospital": "[**Hospital {}**]",
    "name": "[**First Name8 (NamePattern2) **] [**Last Name (NamePattern1) {}**]",
    "phone": "[**Telephone/Fax (1) {}**]",
    "clip": "[**Clip Number (Radiology) {}**]",
}


class Blanks(dict[str, Any]):
    """What fills a sentence's blanks: facts of the stay, and a fresh draw for all others."""

    def __init__(self, dice: Dice, facts: Mapping[str, object]) -> None:
        super().__init__(facts)
        self.dice = dice

    def __missing__(self, blank: str) -> object:
        if blank == "date":
            return hidden(self["day"] - timedelta(days=self.dice.whole(0, 6)))
        if blank == "clock":
            return f"{self.dice.whole(0, 23):02d}:{self.dice.whole(0, 59):02d}"
        if blank in RANGES:
            low, high, decimals = RANGES[blank]
            return f"{self.dice.between(low, high):.{decimals}f}"
        if blank in WORDS:
            return self.dice.pick(WORDS[blank])
        return MARKED[blank].format(self.dice.whole(1, 9999))


class Patient(NamedTuple):
    """A person; `age` in years at the first admission, 0 for a newborn."""

    subject_id: int
    sex: str
    age: int
    first_admit: datetime
    traits: dict[str, bool]


class Stay(NamedTuple):
    """One admission; `home_since` is the discharge before it, None at the first."""

    hadm_id: int
    kind: str
    admit: datetime
    discharge: datetime
    destination: str
    complaint: tuple[str, str]  # (diagnosis, as told by the patient)
    traits: dict[str, bool]  # empty for newborns and organ donors
    home_since: datetime | None

    @property
    def died(self) -> bool:
        return self.destination == "DEAD/EXPIRED"


def after(moment: datetime, hours: float) -> datetime:
    return moment + timedelta(minutes=int(hours * 60))


def hours_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() / 3600


def hidden(day: datetime) -> str:
    return f"[**{day.year}-{day.month}-{day.day}**]"


def new_patient(seed: int, number: int) -> Patient:
    dice = Dice(seed, number, "patient")
    age = 0 if dice.chance(0.05) else int(min(max(66 + 16 * dice.normal(), 18), 98))
    first_admit = after(datetime(2101, 1, 1), dice.between(0, 85 * 365 * 24))
    traits = {name: dice.chance(trait.share) for name, trait in TRAITS.items()}
    return Patient(10_000 + number, dice.pick("MF"), age, first_admit, traits if age else {})


def return_risk(traits: Mapping[str, bool], signal: float) -> float:
    """The chance of an unplanned return within 30 days, should the patient leave alive."""
    if not traits:
        return 0.0
    moved = math.fsum(t.weight * (traits[name] - t.share) for name, t in TRAITS.items())
    # Without the 0.8, rare high risks and returning patients would make returns more frequent.
    return 1 / (1 + math.exp(1.2 + signal * (0.8 - moved)))


def stays_of(patient: Patient, seed: int, signal: float) -> list[Stay]:
    dice = Dice(seed, patient.subject_id, "first")
    kind = "ELECTIVE" if dice.chance(0.2) else dice.pick(UNPLANNED)
    coming: tuple[datetime, str] | None = (patient.first_admit, kind if patient.age else NEWBORN)
    stays: list[Stay] = []
    while coming:
        dice = Dice(seed, patient.subject_id, len(stays))
        stays.append(new_stay(patient, stays, *coming, dice))
        coming = next_coming(stays[-1], return_risk(stays[-1].traits, signal), dice)
    if stays[-1].died and dice.chance(0.1):
        stays.append(donation(stays[-1], dice))
    return stays


def new_stay(
    patient: Patient, earlier: Sequence[Stay], admit: datetime, kind: str, dice: Dice
) -> Stay:
    traits = dict(patient.traits)
    if traits:
        traits["prior admissions"] |= bool(earlier)
        traits["follow-up arranged"] = dice.chance(TRAITS["follow-up arranged"].share)
    hours = min(max(dice.lognormal(138 if patient.age else 60, 0.8), 12), 1500)
    # The last stay we tell of ends in death, so that no return goes unseen.
    dies = dice.chance(0.06 if patient.age else 0.01) or len(earlier) + 1 == MOST_STAYS
    leaves_for = dice.weighted(DESTINATIONS) if patient.age else "HOME"
    complaints = {"NEWBORN": BIRTH, "ELECTIVE": SURGERY}.get(kind, COMPLAINTS)
    return Stay(
        hadm_id=100_000 + (patient.subject_id - 10_000) * 10 + len(earlier),
        kind=kind,
        admit=admit,
        discharge=after(admit, hours),
        destination="DEAD/EXPIRED" if dies else leaves_for,
        complaint=dice.pick(list(complaints.items())),
        traits=traits,
        home_since=earlier[-1].discharge if earlier else None,
    )


def next_coming(stay: Stay, risk: float, dice: Dice) -> tuple[datetime, str] | None:
    """When and how the patient is next admitted, if ever; `risk` is that of an unplanned return."""
    if stay.died or not stay.traits:
        return None
    midnight = datetime(stay.discharge.year, stay.discharge.month, stay.discharge.day)
    at = dice.between(0, 24)
    if dice.chance(0.015):  # the next stay overlaps this one
        return after(stay.discharge, -dice.between(1, 10)), "EMERGENCY"
    if dice.chance(0.015):  # back on the day of discharge
        return min(after(stay.discharge, at / 4), after(midnight, 23.98)), dice.pick(UNPLANNED)
    if dice.chance(risk):
        return after(midnight, 24 * dice.whole(1, 30) + at), dice.pick(UNPLANNED)
    if dice.chance(0.05):
        return after(midnight, 24 * dice.whole(2, 30) + at), "ELECTIVE"
    if dice.chance(0.17):
        kind = "ELECTIVE" if dice.chance(0.25) else dice.pick(UNPLANNED)
        return after(midnight, 24 * dice.whole(31, 400) + at), kind
    return None


def donation(last: Stay, dice: Dice) -> Stay:
    """The row MIMIC keeps for an organ donor, admitted hours after death."""
    admit = after(last.discharge, dice.between(0.5, 8))
    return last._replace(
        hadm_id=last.hadm_id + 1,
        kind="EMERGENCY",
        admit=admit,
        discharge=after(admit, dice.between(8, 30)),
        complaint=DONOR,
        traits={},
        home_since=last.discharge,
    )


def patient_cells(patient: Patient, stays: Sequence[Stay], seed: int) -> Cells:
    dice = Dice(seed, patient.subject_id, "death")
    # MIMIC moves the birth of patients over 89 to 300 years before their first admission.
    born = patient.first_admit - timedelta(
        days=int((300 if patient.age > 89 else patient.age + 0.5) * 365.25) if patient.age else 0
    )
    in_hospital = in_registry = ""
    deaths = [stay.discharge for stay in stays if stay.died]
    if deaths:
        in_hospital = f"{deaths[0].date()} 00:00:00"
        in_registry = in_hospital if dice.chance(0.7) else ""
    elif patient.age and dice.chance(0.2):
        in_registry = f"{after(stays[-1].discharge, dice.between(48, 20_000)).date()} 00:00:00"
    died = in_hospital or in_registry
    dates = [f"{born.date()} 00:00:00", died, in_hospital, in_registry]
    return [patient.subject_id, patient.sex, *dates, int(bool(died))]


def admission_cells(patient: Patient, stay: Stay, seed: int) -> Cells:
    person, dice = Dice(seed, patient.subject_id, "person"), Dice(seed, stay.hadm_id, "desk")
    insured = "Medicare" if patient.age >= 65 else person.pick(("Private", "Medicaid"))
    about = [person.pick(choices) for choices in DEMOGRAPHY]
    urgent = stay.kind in UNPLANNED
    arrived = after(stay.admit, -dice.between(1, 9)) if urgent else ""
    mistimed = not stay.died and dice.chance(0.006)
    return [
        patient.subject_id,
        stay.hadm_id,
        stay.admit,
        after(stay.admit, -dice.between(1, 14)) if mistimed else stay.discharge,
        stay.discharge if stay.died else "",
        stay.kind,
        "EMERGENCY ROOM ADMIT" if urgent else "PHYS REFERRAL/NORMAL DELI",
        stay.destination,
        insured,
        *about,
        arrived,
        after(stay.admit, dice.between(0.2, 2)) if urgent else "",
        stay.complaint[0],
        int(stay.died),
        1,
    ]


def note_cells(patient: Patient, stay: Stay, seed: int, notes_per_stay: float) -> Iterator[Cells]:
    """The notes of a stay in order of time, and outpatient notes from before it."""
    if stay.complaint == DONOR:
        return
    dice = Dice(seed, stay.hadm_id, "notes")
    latest: dict[tuple[str, int | str], str] = {}
    for moment, category, hadm_id in schedule(stay, notes_per_stay, dice):
        text = compose(patient, stay, category, moment, dice)
        if category in (NURSING, PHYSICIAN) and dice.chance(0.06):
            text = latest.get((category, hadm_id), text)  # copied forward
        latest[category, hadm_id] = text
        if dice.chance(0.004):
            text = ""
        yield note_row(patient, hadm_id, moment, category, "Report", text, dice)
        if category != ECG and dice.chance(0.02):
            text = compose(patient, stay, ADDENDUM, moment, dice)
            moment = after(moment, dice.between(1, 20))
            yield note_row(patient, hadm_id, moment, category, ADDENDUM, text, dice)


def schedule(
    stay: Stay, notes_per_stay: float, dice: Dice
) -> list[tuple[datetime, str, int | str]]:
    """When which note is written, under which HADM_ID: outpatient notes, from before, have none."""
    hours = hours_between(stay.admit, stay.discharge)
    kept = 0.98 * min(1.0, notes_per_stay / 3)
    seen = -dice.between(0.5, 6) if dice.chance(0.05) else dice.between(0.5, 10)
    usual = [(seen, PHYSICIAN), (dice.between(1, 12), NURSING), (hours, SUMMARY)]
    notes: list[tuple[datetime, str, int | str]] = [
        (after(stay.admit, at), category, stay.hadm_id)
        for at, category in usual
        if dice.chance(kept)
    ]
    more = max(0.0, 0.93 * notes_per_stay - 2.94) * (0.4 + 0.6 * hours / MEAN_STAY_HOURS)
    for _ in range(int(more + dice.random())):
        category = dice.weighted(CATEGORIES) if stay.traits else NURSING
        notes.append((after(stay.admit, dice.between(1, hours)), category, stay.hadm_id))
    at_home = hours_between(stay.home_since, stay.admit) if stay.home_since else 60 * 24
    if stay.traits and at_home > 24:
        for _ in range(int(0.06 * notes_per_stay + dice.random())):
            visit = after(stay.admit, -at_home * dice.between(0.1, 0.9))
            notes.append((visit, dice.pick((PHYSICIAN, RADIOLOGY, ECG)), ""))
    return sorted(notes, key=lambda note: note[0])


def note_row(
    patient: Patient,
    hadm_id: int | str,
    moment: datetime,
    category: str,
    description: str,
    text: str,
    dice: Dice,
) -> Cells:
    charted: datetime | str = moment
    stored: datetime | str = ""
    if category in (SUMMARY, ECG) or dice.chance(0.015):
        charted = ""
    elif category != RADIOLOGY and not dice.chance(0.03):
        stored = after(moment, min(dice.lognormal(0.8, 1.2), 36))
    author = dice.whole(14_000, 21_000) if category in (NURSING, PHYSICIAN) else ""
    flagged = "1" if dice.chance(0.006) else ""
    times = [moment.date(), charted, stored]
    return [patient.subject_id, hadm_id, *times, category, description, author, flagged, text]


def compose(patient: Patient, stay: Stay, category: str, moment: datetime, dice: Dice) -> str:
    """Write a note: what it says of the traits, among as much else as its length asks for."""
    kind = category if stay.traits or category == ADDENDUM else NEWBORN
    topics, median, sigma, title = KINDS[kind]
    blanks = Blanks(dice, facts(patient, stay, moment))
    sections: dict[str, list[str]] = {topic: [] for topic in topics.split()}
    told = told_traits(stay.traits, sections, dice)
    words = min(max(dice.lognormal(median, sigma), median / 4), 4000.0) - 11 * len(told)
    deck: list[tuple[str, str]] = []
    while words > 0:
        deck = deck or dice.shuffled(DECKS[kind])
        topic, sentence = deck.pop()
        sections[topic].append(sentence.format_map(blanks))
        words -= sentence.count(" ") + 1
    for topic, sentence in told:
        place = dice.whole(0, len(sections[topic]))
        sections[topic].insert(place, sentence.format_map(blanks))
    return title.format_map(blanks) + "\n\n" + laid_out(sections, dice)


def told_traits(
    traits: Mapping[str, bool], topics: Container[str], dice: Dice
) -> list[tuple[str, str]]:
    """The (topic, sentence) pairs by which a note states or denies most of the traits."""
    told = []
    for name, present in traits.items():
        homes = [topic for topic in TRAITS[name].topics if topic in topics]
        if homes and dice.chance(SAID):
            told.append((dice.pick(homes), dice.pick((STATED if present else DENIED)[name])))
    return told


def facts(patient: Patient, stay: Stay, moment: datetime) -> dict[str, object]:
    age = patient.age + stay.admit.year - patient.first_admit.year
    pronouns = ("He", "His", "him", "man") if patient.sex == "M" else ("She", "Her", "her", "woman")
    subject, possessive, him, person = pronouns
    return {
        "He": subject,
        "he": subject.lower(),
        "His": possessive,
        "his": possessive.lower(),
        "him": him,
        "himself": f"{him}self",
        "person": person,
        "age": age if age < 90 else "[**Age over 90 **]",
        "sex": patient.sex,
        "complaint": stay.complaint[1],
        "admitted": hidden(stay.admit),
        "left": hidden(stay.discharge),
        "day": moment,
    }


def laid_out(sections: Mapping[str, list[str]], dice: Dice) -> str:
    """The sections under headings, in one of several ways of writing them."""
    colon, gap, blank = dice.pick(MARKS)
    shout = dice.chance(0.4)
    parts = []
    for topic, said in sections.items():
        if said:
            heading = dice.pick(HEADINGS.get(topic, [topic.capitalize()]))
            parts.append(f"{heading.upper() if shout else heading}{colon}{gap.join(said)}")
    return blank.join(parts)


class Table:
    """A CSV file under way; `rows` counts what was added, and numbers it where ROW_ID leads."""

    def __init__(self, file: IO[str], header: str) -> None:
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(header.split(","))
        self.numbered = header.startswith("ROW_ID")
        self.rows = 0

    def add(self, cells: Cells) -> None:
        self.rows += 1
        self.writer.writerow([self.rows, *cells] if self.numbered else cells)


@contextmanager
def private_tables(folder: Path) -> Iterator[dict[str, Table]]:
    """Tables only their owner may read; they get their names when all are whole, or vanish."""
    parts = {name: folder / f".{name}.{os.getpid()}.part" for name in HEADERS}
    try:
        with ExitStack() as files:
            yield {
                name: Table(files.enter_context(private_file(part)), HEADERS[name])
                for name, part in parts.items()
            }
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def private_file(path: Path) -> IO[str]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    path.chmod(0o600)  # A strict umask may have taken the owner's rights too.
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="")


def write_hospital(
    folder: str | Path,
    patients: int = 400,
    seed: int = 0,
    signal: float = 1.0,
    notes_per_stay: float = 6.0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write an invented hospital as CSV files; return the counts of patients, admissions, notes.

    PATIENTS.csv, ADMISSIONS.csv and NOTEEVENTS.csv have MIMIC-III's columns. PLANTED_RISK.csv
    (HADM_ID, RISK) holds what an ideal reader would predict: the probability with which an
    unplanned return 1 to 30 days after discharge was drawn, given that the patient leaves alive;
    0 for newborns and organ donors. `signal` scales the traits' log odds: at 0 the risk is the
    same for all other stays. `notes_per_stay` is the mean; below 3 even the usual admission,
    nursing and discharge notes are thinned out.

    The same arguments give the same bytes, and a patient is the same however many follow. Files
    are private (0600) and take their names when all are whole; a killed run leaves none of them.
    `progress` is told the number of patients done so far. ValueError for fewer than one patient
    or negative notes; FileExistsError where one of the files is.
    """
    if patients < 1:
        raise ValueError(f"{patients} patients make no hospital - ask for 1 or more")
    if notes_per_stay < 0:
        raise ValueError(f"{notes_per_stay} notes per stay cannot be - ask for 0 or more")
    folder = Path(folder)
    for name in HEADERS:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} already exists - name an empty folder")
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
    with private_tables(folder) as tables:
        for done in range(1, patients + 1):
            write_patient(tables, new_patient(seed, done), seed, signal, notes_per_stay)
            if progress:
                progress(done)
    names = {"patients": "PATIENTS", "admissions": "ADMISSIONS", "notes": "NOTEEVENTS"}
    return {what: tables[f"{name}.csv"].rows for what, name in names.items()}


def write_patient(
    tables: Mapping[str, Table], patient: Patient, seed: int, signal: float, notes_per_stay: float
) -> None:
    stays = stays_of(patient, seed, signal)
    tables["PATIENTS.csv"].add(patient_cells(patient, stays, seed))
    for stay in stays:
        tables["ADMISSIONS.csv"].add(admission_cells(patient, stay, seed))
        risk = return_risk(stay.traits, signal)
        tables["PLANTED_RISK.csv"].add([stay.hadm_id, f"{risk:.6f}"])
        for cells in note_cells(patient, stay, seed, notes_per_stay):
            tables["NOTEEVENTS.csv"].add(cells)
