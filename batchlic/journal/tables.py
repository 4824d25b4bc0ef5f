"""The journal's tables. Rows are added and never changed.

`intents` holds requests, written before they are sent. `answers` holds the answers: at most one per intent,
and none if the answer is not known. `settlements` holds decisions about devices in doubt. Intents and
settlements share one counter, `seq`, so that together they are the run's history. Times are microseconds
since 1970 in UTC.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

run = Table(
    "run",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("identity", Text, nullable=False, comment="RunIdentity as JSON"),
)

session_ends = Table(
    "session_ends",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("started_at", BigInteger, nullable=False, comment="when this session of the run began"),
    Column("ended_at", BigInteger, nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("last_seq", BigInteger, nullable=False, comment="newest entry of the history at that time"),
    Column("file_hashes", Text, nullable=False, comment="file name: SHA-256, as a JSON object"),
)

intents = Table(
    "intents",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", Integer, nullable=False),
    Column("step", String, comment="of a migration, the step of the batch; null in other runs"),
    Column("part", Text, nullable=False, comment="row ranges within the batch, empty for all of it"),
    Column("x_request_id", String(32), nullable=False),
    Column("attempt", Integer, nullable=False, comment="1-based, of this part"),
    Column("action", String, nullable=False),
    Column("device_count", Integer, nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("pace_rps", Float, comment="requests/s let in over the last 10 s; null before any"),
    Column("started_at", BigInteger, nullable=False),
    Index("intents_by_batch", "batch_id"),
)

answers = Table(
    "answers",
    metadata,
    Column("seq", BigInteger, ForeignKey("intents.seq"), primary_key=True, autoincrement=False),
    Column("duration_ms", Float, nullable=False),
    Column("outcome", String, nullable=False),
    Column("final", Boolean, nullable=False, comment="nothing more will be sent for these devices"),
    Column("http_status", Integer),
    Column("request_id", String),
    Column("error_code", String),
    Column("error_message", Text),
    Column("retry_after_s", Float),
    Column("is_refusal", Boolean, comment="the service refused the request, whatever `outcome` says"),
)

settlements = Table(
    "settlements",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", Integer, nullable=False),
    Column("step", String, comment="as in intents"),
    Column("part", Text, nullable=False, comment="as in intents"),
    Column("device_count", Integer, nullable=False),
    Column("status", String, nullable=False, comment="accepted, failed, or pending: send again"),
    Column("settled_by", String, nullable=False, comment="user name, or `a callback`"),
    Column("reason", Text, nullable=False),
    Column("settled_at", BigInteger, nullable=False),
    Index("settlements_by_batch", "batch_id"),
)
