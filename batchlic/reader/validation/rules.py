"""The rules for rows that are planned: a table of polars expressions, each with a reason and a message.

To add a rule, add an entry to the table. The rules see a cleaned row. An identifier has columns for its text,
its digits and its integer; account and SKU have a column with the job's default filled in.
"""

from dataclasses import dataclass

import polars as pl

from batchlic.carrier.catalog import Action, LicenseType
from batchlic.reader.inventory import LONG, SHORT
from batchlic.reader.options import ACCOUNT_FORM, ReadOptions
from batchlic.reader.roles import IDENTIFIERS, Role
from batchlic.reader.validation import accounts, cells, look_alikes
from batchlic.reader.validation.luhn import check_digit, luhn_sum
from batchlic.reader.validation.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row is rejected for `reason` if `broken` (Boolean) is true; `message` (String) says why."""

    reason: Reason
    broken: pl.Expr
    message: pl.Expr


SHOWN = 200
"""Characters of a cell that a message quotes."""


def format_message(template: str, *values: pl.Expr) -> pl.Expr:
    """The template with each `{}` filled for each row. (`pl.format` of polars 2.1 panics on some columns.)"""
    texts = template.split("{}")
    shown = [value.cast(pl.String).str.head(SHOWN) for value in values]
    filled = [piece for text, value in zip(texts, shown, strict=False) for piece in (pl.lit(text), value)]
    return pl.concat_str(*filled, pl.lit(texts[-1]))


IMEI_TEXT, IMEI_DIGITS, IMEI = pl.col("imei_text"), pl.col("imei_digits"), pl.col("imei_number")
ICCID_TEXT, ICCID_DIGITS, ICCID = pl.col("iccid_text"), pl.col("iccid_digits"), pl.col("iccid_number")
ACCOUNT, SKU = pl.col("account_name"), pl.col("sku_number")


def imei_number(digits: pl.Expr) -> pl.Expr:
    """IMEI digits (String) as Int64."""
    return digits.cast(pl.Int64, strict=False)


def imei_digits(number: pl.Expr) -> pl.Expr:
    """The inverse of `imei_number`, with leading zeros."""
    return (number + 10**15).cast(pl.String).str.slice(1)


def iccid_number(digits: pl.Expr) -> pl.Expr:
    """ICCID digits (String, 18 to 20 of them, the first two `89`) as Int64: the low 64 bits of their value.

    Each number has its own value: 18 and 19 digits fit into 64 bits, and 20 digits give a negative value.
    """
    return digits.cast(pl.Int128, strict=False).cast(pl.Int64, wrap_numerical=True)


def iccid_digits(number: pl.Expr) -> pl.Expr:
    """The inverse of `iccid_number`."""
    return _iccid_value(number).cast(pl.String)


def iccid_without_last_digit(number: pl.Expr) -> pl.Expr:
    """The `iccid_number` of all digits but the last one."""
    return (_iccid_value(number) // 10).cast(pl.Int64)


def _iccid_value(number: pl.Expr) -> pl.Expr:
    """An `iccid_number` as its decimal value (Int128)."""
    overflow = pl.when(number < 0).then(pl.lit(_OVERFLOW_OF_20, pl.Int128)).otherwise(pl.lit(0, pl.Int128))
    return number.cast(pl.Int128) + overflow


_OVERFLOW_OF_20 = 5 * 2**64
"""The difference between a 20-digit number that starts with 89 and its low 64 bits as a signed integer."""


def imei_is_right(number: pl.Expr) -> pl.Expr:
    """Whether the check digit of an `imei_number` is right."""
    return luhn_sum(number, 15) % 10 == 0


def iccid_is_right(number: pl.Expr) -> pl.Expr:
    """Whether the check digit of an `iccid_number` is right.

    `89` adds 16 to the Luhn sum of the digits after it, or 17 if the number of these digits is odd.
    """
    has_19 = number >= 10**18
    prefix = pl.when(number < 0).then(89 * 10**18 - _OVERFLOW_OF_20).when(has_19).then(89 * 10**17)
    rest = number - prefix.otherwise(89 * 10**16)
    return (luhn_sum(rest, 18) + 16 + has_19.cast(pl.UInt8)) % 10 == 0


def wrong_check_digits() -> dict[Role, pl.Expr]:
    """Whether a cleaned row has an identifier of the right form with a wrong check digit, by role."""
    is_imei = IMEI_DIGITS.str.contains("^[0-9]{15}$") & ~cells.is_mangled(IMEI_TEXT)
    is_iccid = ICCID_DIGITS.str.contains("^89[0-9]{16,18}$") & ~cells.is_mangled(ICCID_TEXT)
    return {Role.IMEI: is_imei & ~imei_is_right(IMEI), Role.ICCID: is_iccid & ~iccid_is_right(ICCID)}


def imei_of_imeisv(digits: pl.Expr) -> pl.Expr:
    """The IMEI (String) of a 16-digit IMEISV: its first 14 digits and a new check digit."""
    body = digits.str.slice(0, 14)
    return body + check_digit(body.cast(pl.Int64, strict=False), 14).cast(pl.String)


def cleaning(options: ReadOptions) -> list[list[pl.Expr]]:
    """The columns that the rules read, made from the cells by role. Each list uses those before it."""
    digits = cells.digits(IMEI_TEXT)
    if options.accept_imeisv:
        is_imeisv = digits.str.contains("^[0-9]{16}$") & ~cells.is_mangled(IMEI_TEXT)
        digits = pl.when(is_imeisv).then(imei_of_imeisv(digits)).otherwise(digits)
    account, sku = pl.lit(options.account, pl.String), pl.lit(options.sku, pl.String)
    return [
        [
            cells.text(pl.col(Role.IMEI)).alias("imei_text"),
            cells.text(pl.col(Role.ICCID)).alias("iccid_text"),
            cells.text(pl.col(Role.ACCOUNT)).alias("account_cell"),
            cells.text(pl.col(Role.SKU)).alias("sku_text"),
        ],
        [
            accounts.is_foreign(pl.col("account_cell"), options).alias("account_is_foreign"),
        ],
        [
            pl.when(~pl.col("account_is_foreign")).then("account_cell").alias("account_text"),
        ],
        [
            digits.alias("imei_digits"),
            cells.digits(ICCID_TEXT).alias("iccid_digits"),
            pl.coalesce("account_text", account).alias("account_name"),
            pl.coalesce("sku_text", sku).alias("sku_number"),
        ],
        [imei_number(IMEI_DIGITS).alias("imei_number"), iccid_number(ICCID_DIGITS).alias("iccid_number")],
    ]


def cleaned_values() -> dict[str, pl.Expr]:
    """Numbers and targets of a cleaned row that breaks no rule."""
    return {
        "imei_number": IMEI,
        "iccid_number": ICCID,
        "account": pl.col("account_text"),
        "sku": pl.col("sku_text"),
    }


def raw_values() -> dict[str, pl.Expr]:
    """Numbers and targets of a row that `quick_proof` proves valid, from its raw cells."""
    return {
        "imei_number": imei_number(pl.col(Role.IMEI)),
        "iccid_number": iccid_number(pl.col(Role.ICCID)),
        "account": pl.col(Role.ACCOUNT),
        "sku": pl.col(Role.SKU),
    }


def quick_proof(options: ReadOptions) -> pl.Expr:
    """Whether a row certainly needs no cleaning and breaks no rule (Boolean): true for nearly all rows.

    The expression is fast, because it only reads the raw cells and their `raw_values`. The table checks the
    rows for which it is false. It must never be true for a row that the table rejects.
    """
    imei, iccid = pl.col(Role.IMEI), pl.col(Role.ICCID)
    account, sku = pl.col(Role.ACCOUNT), pl.col(Role.SKU)
    right_imei = (imei.str.len_bytes() == 15) & (IMEI > 0) & ~imei.str.starts_with("+")
    right_iccid = iccid.str.len_bytes().is_between(18, 20) & iccid.str.starts_with("89") & ICCID.is_not_null()
    if options.check_digit:
        right_imei &= imei_is_right(IMEI)
        right_iccid &= iccid_is_right(ICCID)
    present = {Role.IMEI: imei.is_not_null(), Role.ICCID: iccid.is_not_null()}
    required = [present[role] for role in options.id_kind.required]
    plannable = [sku for sku in _nameable(options) if sku not in _irrevocable(options)]
    is_valid = (
        ~pl.col(LONG)
        & (pl.all_horizontal(required) if required else pl.any_horizontal(present.values()))
        & (imei.is_null() | right_imei)
        & (iccid.is_null() | right_iccid)
        & accounts.is_proper(account, options).fill_null(value=options.account is not None)
        & sku.is_in(plannable).fill_null(value=options.sku in plannable)
    )
    return is_valid.fill_null(value=False)


def table(options: ReadOptions) -> tuple[Rule, ...]:
    """All rules in the order of their checks: the first broken rule gives the row its reason."""
    return (
        Rule(
            reason=Reason.SHORT_ROW,
            broken=pl.col(SHORT) & _lacks_identifier(options),
            message=pl.lit(
                "the row has fewer cells than the header, and no identifier: restore the missing cells, or "
                "join the row if a line break cut it"
            ),
        ),
        Rule(
            reason=Reason.LONG_ROW,
            broken=pl.col(LONG),
            message=pl.lit(
                "the row has more cells than the header, so an identifier, an account or a SKU may be lost "
                "or in the wrong column: put quotes around a cell that contains the separator, or remove "
                "extra cells"
            ),
        ),
        *_imei_rules(options),
        *_iccid_rules(options),
        _missing_identifier_rule(options),
        *_target_rules(options),
    )


def _digit_rules(role: Role, text: pl.Expr, digits: pl.Expr) -> tuple[Rule, ...]:
    kind = role.upper()
    return (
        Rule(
            reason=Reason.MANGLED_NUMBER,
            broken=cells.is_mangled(text),
            message=format_message(
                f"{kind} {{}} is a number that lost digits, usually to a spreadsheet: take it from the "
                "source again, with the column formatted as text",
                text,
            ),
        ),
        *(
            Rule(
                reason=look_alike.reason,
                broken=look_alike.fits(digits),
                message=format_message(f"{{}} is no {kind}: {look_alike.explanation}", text),
            )
            for look_alike in look_alikes.of(role)
        ),
        Rule(
            reason=Reason.NOT_DIGITS,
            broken=~digits.str.contains("^[0-9]+$"),
            message=format_message(f"{kind} {{}} has characters that are not digits", text),
        ),
    )


def _check_digit_rule(role: Role, text: pl.Expr, is_right: pl.Expr) -> Rule:
    return Rule(
        reason=Reason.BAD_CHECK_DIGIT,
        broken=~is_right,
        message=format_message(
            f"{role.upper()} {{}} does not end with its check digit: a digit is mistyped", text
        ),
    )


def _imei_rules(options: ReadOptions) -> tuple[Rule, ...]:
    rules = (
        *_digit_rules(Role.IMEI, IMEI_TEXT, IMEI_DIGITS),
        Rule(
            reason=Reason.IMEISV,
            broken=IMEI_DIGITS.str.len_bytes() == 16,
            message=format_message(
                "{} has 16 digits, so it is an IMEISV: give the 15-digit IMEI, or use --accept-imeisv, which "
                "computes the IMEI",
                IMEI_TEXT,
            ),
        ),
        Rule(
            reason=Reason.BAD_LENGTH,
            broken=IMEI_DIGITS.str.len_bytes() != 15,
            message=format_message(
                "IMEI {} has {} digits instead of 15{}",
                IMEI_TEXT,
                IMEI_DIGITS.str.len_bytes(),
                pl.when(IMEI_DIGITS.str.len_bytes() == 14)
                .then(pl.lit(": its check digit or a leading zero is lost"))
                .otherwise(pl.lit("")),
            ),
        ),
    )
    if not options.check_digit:
        return rules
    return (*rules, _check_digit_rule(Role.IMEI, IMEI_TEXT, imei_is_right(IMEI)))


def _iccid_rules(options: ReadOptions) -> tuple[Rule, ...]:
    length = ICCID_DIGITS.str.len_bytes()
    rules = (
        *_digit_rules(Role.ICCID, ICCID_TEXT, ICCID_DIGITS),
        Rule(
            reason=Reason.BAD_LENGTH,
            broken=~length.is_between(18, 20),
            message=format_message("ICCID {} has {} digits instead of 18 to 20", ICCID_TEXT, length),
        ),
        Rule(
            reason=Reason.BAD_ICCID_PREFIX,
            broken=~ICCID_DIGITS.str.starts_with("89"),
            message=format_message("ICCID {} does not start with 89, as every SIM's ICCID does", ICCID_TEXT),
        ),
    )
    if not options.check_digit:
        return rules
    return (*rules, _check_digit_rule(Role.ICCID, ICCID_TEXT, iccid_is_right(ICCID)))


def _lacks_identifier(options: ReadOptions) -> pl.Expr:
    """Whether a row lacks the identifiers that are sent."""
    texts = {Role.IMEI: IMEI_TEXT, Role.ICCID: ICCID_TEXT}
    required = options.id_kind.required
    missing = [texts[role].is_null() for role in required or IDENTIFIERS]
    return pl.any_horizontal(missing) if required else pl.all_horizontal(missing)


def _missing_identifier_rule(options: ReadOptions) -> Rule:
    names = " and ".join(role.upper() for role in options.id_kind.required) or "IMEI or ICCID"
    return Rule(
        reason=Reason.MISSING_IDENTIFIER,
        broken=_lacks_identifier(options),
        message=pl.lit(f"the row has no {names}"),
    )


def _target_rules(options: ReadOptions) -> tuple[Rule, ...]:
    return (
        Rule(
            reason=Reason.MISSING_ACCOUNT,
            broken=ACCOUNT.is_null(),
            message=pl.lit("the row has no account: fill the cell, or give one for all rows with --account"),
        ),
        Rule(
            reason=Reason.BAD_ACCOUNT,
            broken=accounts.is_damaged(ACCOUNT, options),
            message=format_message(
                "account {} is not 10 digits, a hyphen (-) and 5 digits: a spreadsheet may have changed it",
                ACCOUNT,
            ),
        ),
        Rule(
            reason=Reason.BAD_ACCOUNT,
            broken=~ACCOUNT.str.contains(f"^{ACCOUNT_FORM}$"),
            message=format_message("account {} is not 3 to 32 letters, digits and dashes", ACCOUNT),
        ),
        Rule(
            reason=Reason.MISSING_SKU,
            broken=SKU.is_null(),
            message=pl.lit("the row has no SKU: fill the cell, or give one for all rows with --sku"),
        ),
        Rule(
            reason=Reason.UNKNOWN_SKU,
            broken=~SKU.is_in(list(options.skus)),
            message=format_message(
                f"SKU {{}} is not known; known are {', '.join(options.skus)}. If the column is about "
                "something else, leave it out with --column sku=-",
                SKU,
            ),
        ),
        Rule(
            reason=Reason.OTHER_SKU,
            broken=~SKU.is_in(_nameable(options)),
            message=format_message(
                f"SKU {{}} is not {options.only_sku}, which the job moves devices from", SKU
            ),
        ),
        Rule(
            reason=Reason.IRREVOCABLE,
            broken=SKU.is_in(_irrevocable(options)),
            message=format_message("SKU {} is a Lifetime license, which can't be taken back", SKU),
        ),
    )


def _nameable(options: ReadOptions) -> list[str]:
    """SKUs that a row may name."""
    return list(options.skus) if options.only_sku is None else [options.only_sku]


def _irrevocable(options: ReadOptions) -> list[str]:
    """SKUs whose licenses the job would take back although they are irrevocable (promise E)."""
    if options.action is not Action.UNASSIGN:
        return []
    return [sku for sku, license in options.skus.items() if license is LicenseType.LIFETIME]
