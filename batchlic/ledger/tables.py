"""The ledger's tables: runs, the records that each run made, and the checksum of both.

Records are stored by column: one row of the database holds a parquet file with the records of about 100,000
devices. Writing or reading it takes a second; with one row per device, it would take a minute.

`records.checksum` is the checksum of the row's content. `catalog.checksum` is the checksum of all other
columns of all rows. There is no index, because a damaged index would hide rows. `Catalog` reads all rows
anyway, without their contents, to compare them with the checksum.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String, nullable=False, comment="unique"),
    sa.Column("carrier", sa.String, nullable=False, comment="base URL, or `sandbox`"),
    sa.Column("folder", sa.String, comment="where its journal is; null in an import"),
    sa.Column("begun_at", sa.BigInteger, nullable=False, comment="microseconds since 1970, UTC"),
    sa.Column("is_open", sa.Boolean, nullable=False, comment="may have done more than it recorded"),
    sa.Column("planned_after", sa.Integer, nullable=False, comment="newest records.id when it was planned"),
)

records = sa.Table(
    "records",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, comment="newer records have a higher one"),
    sa.Column("run", sa.Integer, nullable=False, comment="runs.id"),
    sa.Column("part", sa.Integer, nullable=False, comment="which of the run's frames, from 0"),
    sa.Column("account_name", sa.String, nullable=False),
    sa.Column("sku_number", sa.String, nullable=False),
    sa.Column("devices", sa.Integer, nullable=False),
    sa.Column("unpaired", sa.Integer, nullable=False, comment="devices with only one identifier"),
    sa.Column("completed_by", sa.Integer, comment="runs.id of another run that gave the second identifiers"),
    sa.Column("checksum", sa.LargeBinary, nullable=False, comment="BLAKE2b of the content, 16 bytes"),
    # The last column, because SQLite reads all columns before the one that a query asks for.
    sa.Column("content", sa.LargeBinary, nullable=False, comment="parquet, columns: RECORD_COLUMNS"),
)

catalog = sa.Table(
    "catalog",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, comment="1: there is one row"),
    sa.Column("last_number", sa.Integer, nullable=False, comment="highest records.id ever given"),
    sa.Column("checksum", sa.LargeBinary, nullable=False, comment="see `Catalog`"),
)
