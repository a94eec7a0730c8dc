"""The invented sentences, headings, words and number ranges of the notes."""

from collections.abc import Mapping


def sentences(table: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the alternatives of each key, which `|` separates, with single spaces."""
    return {name: " ".join(parts.split()).split(" | ") for name, parts in table.items()}


# Sentences which say that the patient has a trait.
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
        "shock": """Septic shock, norepinephrine infusing. | Mottled, two vasopressors infusing. |
            Vasopressin added to norepinephrine.""",
        "lung disease": """Severe emphysema, oxygen dependent. | Emphysema, FEV1 under a liter,
            concentrator rented. | Oxygen dependent because of pulmonary fibrosis.""",
        "deep infection": """Endocarditis with vegetations on two valves. | Vertebral
            osteomyelitis on MRI, PICC ordered. | Epidural abscess, PICC ordered.""",
        "awaits placement": """Guardianship hearing pending. | Evicted, placement must be found. |
            Three facilities refused placement.""",
    }
)

# Sentences which say that the patient does not have a trait.
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
        "shock": """Warm and well perfused. | Hemodynamically stable without support. | Perfusion
            adequate, never hypotensive.""",
        "lung disease": """Spirometry was unremarkable. | Breathes easily when climbing hills. |
            Ruled out for chronic bronchitis.""",
        "deep infection": """Oral antimicrobials suffice. | Bacteremia excluded, oral
            antimicrobials only. | Brief oral antimicrobials planned.""",
        "awaits placement": """Disposition straightforward. | Rehabilitation slot already
            confirmed. | Caseworker confirmed disposition.""",
    }
)

# Complaints by diagnosis.
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

# ICD-9-CM codes, without their dots, of the diagnoses and of some traits.
ICD9_CODES = {
    "PNEUMONIA": "486",
    "SEPSIS": "0389",
    "UPPER GI BLEED": "5789",
    "SYNCOPE": "7802",
    "HIP FRACTURE": "82021",
    "CELLULITIS": "6826",
    "UROSEPSIS": "5990",
    "COPD EXACERBATION": "49121",
    "PANCREATITIS": "5770",
    "CHEST PAIN": "78650",
    "SMALL BOWEL OBSTRUCTION": "5609",
    "STROKE": "43491",
    "PULMONARY EMBOLISM": "41519",
    "ATRIAL FIBRILLATION": "42731",
    "AORTIC STENOSIS": "4241",
    "KNEE OSTEOARTHRITIS": "71536",
    "COLON CANCER": "1539",
    "CAROTID STENOSIS": "43310",
    "NEWBORN": "V3000",
    "ORGAN DONOR ACCOUNT": "V5989",
    "heart failure": "4280",
    "kidney disease": "5859",
    "active drinking": "30391",
    "shock": "78552",
    "lung disease": "4928",
    "deep infection": "4210",
}

ORGAN_DONATION = ("ORGAN DONOR ACCOUNT", "organ donation")

# Sentences that do not depend on the traits, by topic.
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

# Name, minimum and maximum of each number; a number has as many decimals as its minimum.
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

# MIMIC-III's placeholders for identifying text; {} is a number.
DEIDENTIFIED = {
    "hospital": "[**Hospital {}**]",
    "name": "[**First Name8 (NamePattern2) **] [**Last Name (NamePattern1) {}**]",
    "phone": "[**Telephone/Fax (1) {}**]",
    "clip": "[**Clip Number (Radiology) {}**]",
}
