"""The batch jobs: embed, train, score, report, and the nightly job that combines them."""

import featurestore  # noqa: F401  # disables telemetry of libraries before they are imported
