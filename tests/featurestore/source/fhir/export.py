"""FHIR resources as a server exports them in bulk: files of one JSON object a line."""

import base64
import csv
import gzip
import json
from pathlib import Path

RACE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race"
DISPOSITIONS = {
    "DEAD/EXPIRED": "exp",
    "LEFT AGAINST MEDICAL ADVI": "aadvice",
    "SHORT TERM HOSPITAL": "other-hcf",
}
PRIORITIES = {"ELECTIVE": "EL", "EMERGENCY": "EM", "URGENT": "UR"}


def coded(code, system="http://terminology.hl7.org/CodeSystem/x"):
    """A CodeableConcept with one code."""
    return {"coding": [{"system": system, "code": code}]}


def encounter(number, patient=1, start="2150-01-01T08:00:00-05:00", end=None, **others):
    """A finished inpatient Encounter of R4: by default ten days."""
    return {
        "resourceType": "Encounter",
        "id": f"stay-{number}",
        "status": "finished",
        "class": {"code": "IMP"},
        "subject": {"reference": f"Patient/patient-{patient}"},
        "period": {"start": start, "end": end or "2150-01-11T12:00:00-05:00"},
        **others,
    }


def patient(number=1, **others):
    """A Patient, a woman born in 2080."""
    return {
        "resourceType": "Patient",
        "id": f"patient-{number}",
        "gender": "female",
        "birthDate": "2080-06-01",
        **others,
    }


def attachment(text, content_type="text/plain", charset="utf-8", **others):
    """An element of DocumentReference.content that holds the text."""
    data = base64.b64encode(text if isinstance(text, bytes) else text.encode(charset)).decode()
    return {"attachment": {"contentType": content_type, "data": data, **others}}


def document(number, *content, stay=1, patient=1, **others):
    """A final DocumentReference of R4 on the stay's second day; its content are texts too."""
    return {
        "resourceType": "DocumentReference",
        "id": f"note-{number}",
        "status": "current",
        "docStatus": "final",
        "type": {"text": "Nursing"},
        "subject": {"reference": f"Patient/patient-{patient}"},
        "date": "2150-01-02T09:00:00-05:00",
        "content": [attachment(part) if isinstance(part, str) else part for part in content],
        "context": {"encounter": [{"reference": f"Encounter/stay-{stay}"}]},
        **others,
    }


def write_export(folder, resources, n_files=1, compressed=False):
    """Write resources to `n_files` files a type, such as Encounter.000.ndjson[.gz]."""
    folder.mkdir(exist_ok=True)
    by_type = {}
    for resource in resources:
        by_type.setdefault(resource["resourceType"], []).append(resource)
    for name, rows in by_type.items():
        for number in range(n_files):
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[number::n_files]]
            data = "".join(lines).encode()
            file = folder / f"{name}.{number:03}.ndjson{'.gz' if compressed else ''}"
            file.write_bytes(gzip.compress(data) if compressed else data)
    return folder


def export_of_mimic(hospital, offset="-05:00"):
    """Yield the resources of a hospital in MIMIC-III's files; ids get a word in front."""
    patients = {row["SUBJECT_ID"]: row for row in _rows(hospital / "PATIENTS.csv")}
    races = {}
    for row in _rows(hospital / "ADMISSIONS.csv"):
        races[row["SUBJECT_ID"]] = row["ETHNICITY"]
        place = row["DISCHARGE_LOCATION"]
        source = {"admitSource": coded("born")} if row["ADMISSION_TYPE"] == "NEWBORN" else {}
        concept = coded(DISPOSITIONS[place]) if place in DISPOSITIONS else {"text": place}
        yield encounter(
            row["HADM_ID"],
            row["SUBJECT_ID"],
            _time(row["ADMITTIME"], offset),
            _time(row["DISCHTIME"], offset),
            priority=coded(PRIORITIES.get(row["ADMISSION_TYPE"], "R")),
            hospitalization={"dischargeDisposition": concept, **source},
        )
    for number, row in patients.items():
        died = {"deceasedDateTime": row["DOD"][:10]} if row["DOD"] else {"deceasedBoolean": False}
        yield patient(
            number,
            gender={"F": "female", "M": "male"}[row["GENDER"]],
            birthDate=row["DOB"][:10],
            extension=[{"url": RACE, "extension": [{"url": "text", "valueString": races[number]}]}],
            **died,
        )
    for row in _rows(hospital / "NOTEEVENTS.csv"):
        created = _time(row["CHARTTIME"], offset) or row["CHARTDATE"][:10]
        resource = document(
            row["ROW_ID"],
            attachment(row["TEXT"], creation=created),
            stay=row["HADM_ID"],
            patient=row["SUBJECT_ID"],
            type={"text": row["CATEGORY"]},
            status="entered-in-error" if row["ISERROR"] == "1" else "current",
            date=_time(row["STORETIME"], offset),
        )
        if not row["HADM_ID"]:
            del resource["context"]
        yield {name: value for name, value in resource.items() if value is not None}


def _time(value, offset):
    return value.replace(" ", "T") + offset if value else None


def _rows(file: Path):
    with file.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)
