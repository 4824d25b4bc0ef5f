"""The journal's tables: append-only, nothing in them is ever changed.

`intents` holds what was about to be sent, `answers` what came back: one answer an intent at most, none where
the answer is not known. `settlements` holds what an operator decided of such intents; its `seq` counts on
from theirs, so that the two make one history. Times are microseconds since 1970 in UTC.
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
    Column("started_at", BigInteger, nullable=False, comment="when this sitting of the run began"),
    Column("ended_at", BigInteger, nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("last_seq", BigInteger, nullable=False, comment="of the history that this ending speaks of"),
    Column("file_hashes", Text, nullable=False, comment="file name: SHA-256, as a JSON object"),
)

intents = Table(
    "intents",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", Integer, nullable=False),
    Column("part", Text, nullable=False, comment="row ranges within the batch, empty for all of it"),
    Column("x_request_id", String(32), nullable=False),
    Column("attempt", Integer, nullable=False, comment="1-based, of this part"),
    Column("action", String, nullable=False),
    Column("device_count", Integer, nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("pace_rps", Float, comment="requests/s that the pace allowed; null where it set no rate"),
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
)

settlements = Table(
    "settlements",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", Integer, nullable=False),
    Column("part", Text, nullable=False, comment="as in intents"),
    Column("device_count", Integer, nullable=False),
    Column("verdict", String, nullable=False),
    Column("settled_by", String, nullable=False, comment="the operating system's name of the user"),
    Column("reason", Text, nullable=False),
    Column("settled_at", BigInteger, nullable=False),
    Index("settlements_by_batch", "batch_id"),
)
