"""The ledger's tables: runs, and the records that each run made.

Records are stored by the column: one row of the database holds a parquet file with the records of about
100,000 devices. One row a device takes a minute to write and to read where this takes a second.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String, nullable=False, unique=True),
    sa.Column("carrier", sa.String, nullable=False, comment="base URL, or `sandbox`"),
    sa.Column("folder", sa.String, comment="where its journal is; null in an import"),
    sa.Column("begun_at", sa.BigInteger, nullable=False, comment="microseconds since 1970, UTC"),
    sa.Column("is_open", sa.Boolean, nullable=False, comment="may have done more than it recorded"),
    sa.Column("planned_after", sa.Integer, nullable=False, comment="newest records.id when it was planned"),
)

records = sa.Table(
    "records",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False, index=True),
    sa.Column("part", sa.Integer, nullable=False, comment="which of the run's frames, from 0"),
    sa.Column("account_name", sa.String, nullable=False),
    sa.Column("sku_number", sa.String, nullable=False),
    sa.Column("devices", sa.Integer, nullable=False),
    sa.Column("unpaired", sa.Integer, nullable=False, comment="devices with only one identifier"),
    sa.Column("content", sa.LargeBinary, nullable=False, comment="parquet, columns: RECORD_COLUMNS"),
    sa.Column("completed_by", sa.Integer, comment="runs.id of another run that gave the second identifiers"),
    sqlite_autoincrement=True,  # newer records have a higher id, also after deletions
)
