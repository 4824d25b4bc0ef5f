"""All tables: journals of many runs, leases, the ledger and callbacks.

A store of callbacks from before this version has the table `messages` already, with the same columns.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import UserDefinedType

revision = "0001"
down_revision = None


class _TransactionId(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "answers",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False, comment="journals.number"),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("duration_ms", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column(
            "final", sa.Boolean(), nullable=False, comment="nothing more will be sent for these devices"
        ),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("retry_after_s", sa.Float(), nullable=True),
        sa.Column(
            "is_refusal",
            sa.Boolean(),
            nullable=True,
            comment="the service refused the request, whatever `outcome` says",
        ),
        sa.Column(
            "recorded_in",
            _TransactionId(),
            server_default=sa.text("pg_current_xact_id()"),
            nullable=False,
            comment="orders rows by their commit, for those who watch the run",
        ),
        sa.PrimaryKeyConstraint("run", "seq"),
    )
    op.create_table(
        "intents",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False, comment="journals.number"),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column(
            "step",
            sa.String(),
            nullable=True,
            comment="of a migration, the step of the batch; null in other runs",
        ),
        sa.Column(
            "part", sa.Text(), nullable=False, comment="row ranges within the batch, empty for all of it"
        ),
        sa.Column("x_request_id", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="1-based, of this part"),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("device_count", sa.Integer(), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column(
            "pace_rps",
            sa.Float(),
            nullable=True,
            comment="requests/s let in over the last 10 s; null before any",
        ),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "seq"),
    )
    op.create_index("intents_by_batch", "intents", ["run", "batch_id"])
    op.create_index("intents_by_time", "intents", ["started_at"], postgresql_using="brin")
    op.create_table(
        "journals",
        sa.Column("number", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="of the run folder, in its store.json"),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column(
            "folder", sa.Text(), nullable=False, comment="path or URL of the run folder when the run began"
        ),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False, comment="RunIdentity as JSON"),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("ix_journals_run_id", "journals", ["run_id"])
    op.create_table(
        "session_ends",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False, comment="journals.number"),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "started_at", sa.BigInteger(), nullable=False, comment="when this session of the run began"
        ),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=False),
        sa.Column(
            "last_seq", sa.BigInteger(), nullable=False, comment="newest entry of the history at that time"
        ),
        sa.Column("file_hashes", sa.Text(), nullable=False, comment="file name: SHA-256, as a JSON object"),
        sa.PrimaryKeyConstraint("run", "id"),
    )
    op.create_table(
        "settlements",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False, comment="journals.number"),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.String(), nullable=True, comment="as in intents"),
        sa.Column("part", sa.Text(), nullable=False, comment="as in intents"),
        sa.Column("device_count", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False, comment="accepted, failed, or pending: send again"),
        sa.Column("settled_by", sa.String(), nullable=False, comment="user name, or `a callback`"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "recorded_in",
            _TransactionId(),
            server_default=sa.text("pg_current_xact_id()"),
            nullable=False,
            comment="orders rows by their commit, for those who watch the run",
        ),
        sa.PrimaryKeyConstraint("run", "seq"),
    )
    op.create_index("settlements_by_batch", "settlements", ["run", "batch_id"])
    op.create_table(
        "leases",
        sa.Column(
            "key", sa.Text(), nullable=False, comment="what is held, such as `run:` and the key of a run"
        ),
        sa.Column(
            "epoch", sa.BigInteger(), nullable=False, comment="grows with each session that takes the key"
        ),
        sa.Column(
            "holder", sa.Text(), nullable=False, comment="process, host and since when; empty if released"
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stop_requested", sa.Boolean(), nullable=False, comment="its holder shall finish and stop"),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "catalog",
        sa.Column("id", sa.Integer(), nullable=False, comment="1: there is one row"),
        sa.Column("last_number", sa.Integer(), nullable=False, comment="highest records.id ever given"),
        sa.Column("checksum", sa.LargeBinary(), nullable=False, comment="see `Catalog`"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "records",
        sa.Column("id", sa.Integer(), nullable=False, comment="newer records have a higher one"),
        sa.Column("run", sa.Integer(), nullable=False, comment="runs.id"),
        sa.Column("part", sa.Integer(), nullable=False, comment="which of the run's frames, from 0"),
        sa.Column("account_name", sa.String(), nullable=False),
        sa.Column("sku_number", sa.String(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("unpaired", sa.Integer(), nullable=False, comment="devices with only one identifier"),
        sa.Column(
            "completed_by",
            sa.Integer(),
            nullable=True,
            comment="runs.id of another run that gave the second identifiers",
        ),
        sa.Column("checksum", sa.LargeBinary(), nullable=False, comment="BLAKE2b of the content, 16 bytes"),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="parquet, columns: RECORD_COLUMNS"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False, comment="unique"),
        sa.Column("carrier", sa.String(), nullable=False, comment="base URL, or `sandbox`"),
        sa.Column("folder", sa.String(), nullable=True, comment="where its journal is; null in an import"),
        sa.Column("begun_at", sa.BigInteger(), nullable=False, comment="microseconds since 1970, UTC"),
        sa.Column("is_open", sa.Boolean(), nullable=False, comment="may have done more than it recorded"),
        sa.Column(
            "planned_after", sa.Integer(), nullable=False, comment="newest records.id when it was planned"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "announced",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False, comment="from 0"),
        sa.Column("parts", sa.Integer(), nullable=False, comment="rows of this run"),
        sa.Column("lease_key", sa.Text(), nullable=False, comment="what a session at work holds in `leases`"),
        sa.Column("checksum", sa.LargeBinary(), nullable=False, comment="BLAKE2b of the content, 16 bytes"),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="parquet: accounts and identifiers"),
        sa.PrimaryKeyConstraint("run_id", "part"),
    )
    op.create_table(
        "learned_limits",
        sa.Column("carrier", sa.Text(), nullable=False, comment="base URL"),
        sa.Column("scope", sa.Text(), nullable=False, comment="account or login to which the limit applies"),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.Text(), nullable=False, comment="LearnedLimit as JSON"),
        sa.PrimaryKeyConstraint("carrier", "scope"),
    )
    op.create_table(
        "limit_sharers",
        sa.Column("carrier", sa.Text(), nullable=False, comment="base URL"),
        sa.Column(
            "scope",
            sa.Text(),
            nullable=False,
            comment="what the limit is for: `account:`, `login:` and whose",
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="of a limiter in a process, at random"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.Text(), nullable=False, comment="Member as JSON"),
        sa.PrimaryKeyConstraint("carrier", "scope", "name"),
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False, comment="as it came"),
        sa.Column("imei", sa.String(length=32), nullable=False, comment="the first one; empty without one"),
        sa.Column("iccid", sa.String(length=32), nullable=False),
        sa.Column("further_ids", sa.Text(), nullable=False, comment="as KIND:id, separated by spaces"),
        sa.Column("account_name", sa.Text(), nullable=False, comment="from the URL path"),
        sa.Column("status", sa.Text(), nullable=False, comment="as it came; empty without one"),
        sa.Column("error_code", sa.Text(), nullable=False, comment="of the fault; empty without one"),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column(
            "raw", sa.Text(), nullable=False, comment="the body, unless the other columns say everything"
        ),
        sa.Column("received_at", sa.BigInteger(), nullable=False, comment="microseconds since 1970, UTC"),
        sa.Column(
            "content_sha256",
            sa.LargeBinary(length=32),
            nullable=False,
            comment="of the columns before received_at",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("content_sha256"),
        if_not_exists=True,
    )
    op.create_index("messages_by_time", "messages", ["received_at"], if_not_exists=True)
