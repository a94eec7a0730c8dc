"""What limits the labels of a source or of a rule, whatever the data: for every report of them."""

from pathlib import Path

from featurestore.store.store import Store

_OF_OMOP = {
    "omop-planned": (
        "OMOP has no field for planned admissions, so a stay is planned only if the name of its "
        "source concept says so, and every other return counts as unplanned"
    ),
    "omop-note-times": (
        "OMOP has no time of storing, so a note counts from its note_datetime, which may be hours "
        "before it was written"
    ),
}
_OF_SCHEMA = {
    "mimic3": {
        "mimic3-cohort": (
            "MIMIC-III holds nearly only stays with intensive care, so a return to a ward is "
            "missing and counts as no return; MEDS-DEV removed its readmission task because no "
            "public data set holds all returns"
        )
    },
    "mimic4": {
        "mimic4-cohort": (
            "MIMIC-IV holds only patients with a stay in the emergency department or in intensive "
            "care, at any time, so its return rate is not that of all discharges; MEDS-DEV removed "
            "its readmission task for this reason"
        )
    },
    "omop": _OF_OMOP,
    "omop53": _OF_OMOP,
    "fhir": {
        "fhir-planned": (
            "a stay of FHIR is planned only if its priority is EL, which many servers leave empty; "
            "then every planned return counts as unplanned"
        ),
        "fhir-times": (
            "times of FHIR are read as written, without their offset, so where a server writes "
            "some elements in UTC and others in local time, notes are known too early or too late"
        ),
    },
}
_ABOUT_RETURNS = {"mimic3-cohort", "mimic4-cohort", "omop-planned", "fhir-planned"}
_OF_RETURNS = ("readmission", "clinicalbert", "death_or_readmission")
# Against the hospital-wide measure of CMS (Horwitz et al. 2014, doi 10.7326/M13-3000).
_OF_TASK = {
    "readmission": {
        "same-day-returns": (
            "the rule counts a return on the day of discharge as a continuation; CMS counts one "
            "for another diagnosis as a readmission"
        ),
        "planned-by-admission-type": (
            "the rule decides by admission type whether a return was planned; CMS decides by "
            "procedure and diagnosis"
        ),
        "no-excluded-diagnoses": (
            "the rule includes psychiatric, rehabilitation and cancer-treatment stays; CMS "
            "excludes them"
        ),
    }
}
_OF_TASK["death_or_readmission"] = _OF_TASK["readmission"]


def caveats(store: Store, task: str) -> dict[str, str]:
    """Return the caveats of the built-in schema of a store and of a task, by code.

    Of another schema nothing is known. Some concern returns only, and the departures from the CMS
    measure only the rule of `readmission`.
    """
    schema = Path(store.one("SELECT schema_name FROM settings")[0]).name
    of_schema = {
        code: sentence
        for code, sentence in _OF_SCHEMA.get(schema, {}).items()
        if task in _OF_RETURNS or code not in _ABOUT_RETURNS
    }
    return of_schema | _OF_TASK.get(task, {})
