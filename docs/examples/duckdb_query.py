"""Assign a license to each device that a query of DuckDB returns, once a night."""

import sys
from datetime import date

import duckdb

import batchlic

FLEET = """
    SELECT "Device IMEI" AS imei, "SIM ICCID" AS iccid, "Site" AS site
    FROM read_csv('sample_data/fleet.csv.gz', all_varchar = true)
    WHERE "Status" = 'In service'
    ORDER BY "Asset ID"
"""  # in the same order each time: batchlic recognizes a run that it continues by its rows

with duckdb.connect() as warehouse:
    run = batchlic.assign(
        warehouse.sql(FLEET),
        account="0000123456-00001",
        sku="SIMSec-IoT",
        keep=["site"],
        run_dir=f"runs/onboard-{date.today():%Y-%m-%d}",  # one folder per night
        sandbox=True,  # a carrier on this machine; without it, the carrier of the settings
    )

    results = run.results
    print(warehouse.sql("SELECT site, status, count(*) AS devices FROM results GROUP BY ALL ORDER BY ALL"))

# 0: all done. 3: correct the rejected rows. 6: stopped early, so run this again. Other codes are exceptions.
sys.exit(run.exit_code)
