"""Assign a license to each device of a pandas frame, once a night."""

import sys
from datetime import date

import pandas as pd

import batchlic

fleet = pd.read_csv("sample_data/fleet.csv.gz", dtype=str)  # as text: numbers lose leading zeros
in_service = fleet[fleet["Status"] == "In service"]

# One folder per night: the same call on the same day continues the run, and never begins a second one.
run = batchlic.assign(
    in_service,
    account="0000123456-00001",
    sku="SIMSec-IoT",
    keep=["Site"],
    run_dir=f"runs/onboard-{date.today():%Y-%m-%d}",
    sandbox=True,  # a carrier on this machine; without it, the carrier of the settings
)

print(run.summary.statuses)
print(run.rejects.group_by("Site", "reason").len().sort("len", descending=True).head(5).collect())

# 0: all done. 3: correct the rejected rows. 6: stopped early, so run this again. Other codes are exceptions.
sys.exit(run.exit_code)
