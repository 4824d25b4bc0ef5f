"""The exports of well-known platforms: how each is recognized, and which of its columns are read."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchlic.errors import UsageError
from batchlic.reader.columns.headers import fold
from batchlic.reader.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The columns of one platform's export.

    Columns of JSON are dotted paths: `endpoint.imei`. A list of objects with `id` and `kind` has one column
    per kind: `deviceIds.imei`.
    """

    name: str
    """The word for --format-profile."""
    title: str
    """The platform and the export, for people."""
    source: str
    """Where the layout is documented."""
    sample: str
    """A file in sample_data/exports."""
    signature: tuple[str, ...]
    """Columns that only this export has together. Optional columns are not among them."""
    columns: Mapping[Role, str]
    """The column of each role. A file may lack those that are not in the signature."""
    left_out: tuple[Role, ...] = ()
    """Roles that must not be read: the column that looks like one of them holds something else."""


PROFILES: tuple[Profile, ...] = (
    Profile(
        name="thingspace",
        title="Verizon ThingSpace: device list (devices/actions/list)",
        source="https://thingspace.verizon.com/documentation/apis/connectivity-management/api-reference/"
        "retrieve-device-information.html",
        sample="thingspace.json",
        signature=("deviceIds.imei",),
        columns={
            Role.IMEI: "deviceIds.imei",
            Role.ICCID: "deviceIds.iccId",
            Role.ACCOUNT: "accountName",
        },
    ),
    Profile(
        name="thingspace-software",
        title="Verizon ThingSpace: devices of Software Management (deviceList)",
        source="https://github.com/sdks-io/verizon-apis-java-sdk/blob/main/doc/models/device-list-query-result.md",
        sample="thingspace-software.json",
        signature=("deviceId", "mdn", "licenseAssigned"),
        columns={Role.IMEI: "deviceId"},
    ),
    Profile(
        name="thingspace-licenses",
        title="Verizon ThingSpace: devices with a Software Management license (deviceList)",
        source="https://github.com/sdks-io/verizon-apis-java-sdk/blob/main/doc/models/account-license-info.md",
        sample="thingspace-licenses.json",
        signature=("deviceId", "assignmentTime"),
        columns={Role.IMEI: "deviceId"},
    ),
    Profile(
        name="control-center",
        title="Cisco IoT Control Center (Jasper): device details",
        source="https://developer.cisco.com/docs/control-center/get-device-details",
        sample="control-center.json",
        signature=("iccid", "ratePlan", "communicationPlan"),
        columns={Role.IMEI: "imei", Role.ICCID: "iccid"},
        left_out=(Role.ACCOUNT,),
    ),
    Profile(
        name="emnify",
        title="emnify, BICS SIM for Things: SIM list",
        source="https://docs.emnify.com/developers/reference/sim",
        sample="emnify.json",
        signature=("id", "iccid_with_luhn", "eid"),
        columns={Role.IMEI: "endpoint.imei", Role.ICCID: "iccid_with_luhn"},
    ),
    Profile(
        name="1nce",
        title="1NCE: SIM list",
        source="https://help.1nce.com/specs/sim-management.json",
        sample="1nce.json",
        signature=("iccid_with_luhn", "imei", "imei_lock"),
        columns={Role.ICCID: "iccid_with_luhn"},
        left_out=(Role.IMEI,),  # the platform documents 16 digits: an IMEISV as the network reports it
    ),
    Profile(
        name="telnyx",
        title="Telnyx: SIM cards",
        source="https://developers.telnyx.com/api-reference/sim-cards/get-all-sim-cards",
        sample="telnyx.json",
        signature=("record_type", "iccid", "sim_card_group_id"),
        columns={Role.ICCID: "iccid"},
    ),
    Profile(
        name="soracom",
        title="Soracom: subscribers",
        source="https://github.com/soracom/soracom-cli/blob/master/generators/assets/soracom-api.en.yaml",
        sample="soracom.json",
        signature=("iccid", "operatorId", "speedClass"),
        columns={Role.IMEI: "sessionStatus.imei", Role.ICCID: "iccid"},
    ),
    Profile(
        name="hologram",
        title="Hologram: devices",
        source="https://github.com/JeffResc/hologram-mqtt/blob/main/internal/hologram/types.go",
        sample="hologram.json",
        signature=("orgid", "imei", "imei_sv"),
        columns={Role.IMEI: "imei"},
    ),
    Profile(
        name="hologram-links",
        title="Hologram: cellular links",
        source="https://github.com/JeffResc/hologram-mqtt/blob/main/internal/hologram/types.go",
        sample="hologram-links.json",
        signature=("deviceid", "sim", "carrierid"),
        columns={Role.ICCID: "sim"},
    ),
    Profile(
        name="twilio",
        title="Twilio, KORE: Super SIMs",
        source="https://github.com/twilio/twilio-oai/blob/main/spec/json/twilio_supersim_v1.json",
        sample="twilio.json",
        signature=("account_sid", "iccid", "fleet_sid"),
        columns={Role.ICCID: "iccid"},
        left_out=(Role.ACCOUNT,),
    ),
    Profile(
        name="airvantage",
        title="Sierra Wireless AirVantage: systems",
        source="https://source.sierrawireless.com/airvantage/av/reference/cloud/API/API-System-v1/",
        sample="airvantage.json",
        signature=("uid", "gateway.imei", "gateway.serialNumber"),
        columns={Role.IMEI: "gateway.imei"},
    ),
    Profile(
        name="airvantage-subscriptions",
        title="Sierra Wireless AirVantage: subscriptions to import",
        source="https://source.sierrawireless.com/airvantage/av/reference/inventory/howtos/importSubs",
        sample="airvantage-subscriptions.csv",
        signature=("IDENTIFIER", "MOBILE NUMBER", "NETWORK IDENTIFIER", "OPERATOR"),
        columns={Role.ICCID: "IDENTIFIER"},
        left_out=(Role.ACCOUNT,),
    ),
    Profile(
        name="octave",
        title="Sierra Wireless Octave: devices to provision",
        source="https://octave.readme.io/reference/bulkprovisiondevice",
        sample="octave.csv",
        signature=("IMEI", "FSN", "NAME"),
        columns={Role.IMEI: "IMEI"},
    ),
    Profile(
        name="digi",
        title="Digi Remote Manager: devices (DeviceCore)",
        source="https://github.com/digidotcom/python-devicecloud/blob/master/devicecloud/test/unit/"
        "test_devicecore.py",
        sample="digi.json",
        signature=("devConnectwareId", "devCellularModemId"),
        columns={Role.IMEI: "devCellularModemId"},
    ),
    Profile(
        name="edgeiq",
        title="EdgeIQ: devices to upload",
        source="https://dev.edgeiq.io/reference/post_devices_csv_bulk_upload",
        sample="edgeiq.csv",
        signature=("Device Unique ID", "Device Type ID", "ICCID (SIM)"),
        columns={Role.ICCID: "ICCID (SIM)"},
        left_out=(Role.ACCOUNT,),
    ),
    Profile(
        name="intune",
        title="Microsoft Intune: devices report",
        source="https://learn.microsoft.com/mem/intune/fundamentals/reports-export-graph-available-reports",
        sample="intune.csv",
        signature=("DeviceId", "LastContact", "UPN", "IMEI"),
        columns={Role.IMEI: "IMEI"},
    ),
    Profile(
        name="intune-graph",
        title="Microsoft Intune: managedDevices of Microsoft Graph",
        source="https://learn.microsoft.com/graph/api/intune-devices-manageddevice-list",
        sample="intune-graph.json",
        signature=("managedDeviceOwnerType", "azureADDeviceId", "imei"),
        columns={Role.IMEI: "imei", Role.ICCID: "iccid"},
    ),
    Profile(
        name="netcloud",
        title="Cradlepoint NetCloud Manager: net_devices",
        source="https://github.com/cradlepoint/api-samples/blob/master/docs/api-v2-full-reference.md",
        sample="netcloud.json",
        signature=("imei", "iccid", "router", "resource_url"),
        columns={Role.IMEI: "imei", Role.ICCID: "iccid"},
        left_out=(Role.ACCOUNT,),
    ),
    Profile(
        name="rms",
        title="Teltonika RMS: devices",
        source="https://github.com/wifinity/python-teltonika-rms/blob/main/openapi_definition.yaml",
        sample="rms.json",
        signature=("company_id", "wlan_mac", "iccid", "imei"),
        columns={Role.IMEI: "imei", Role.ICCID: "iccid"},
    ),
    Profile(
        name="particle",
        title="Particle: devices",
        source="https://github.com/particle-iot/particle-android/blob/main/cloudsdk/src/main/java/io/particle/android/"
        "sdk/cloud/Responses.kt",
        sample="particle.json",
        signature=("imei", "last_iccid", "platform_id"),
        columns={Role.IMEI: "imei", Role.ICCID: "last_iccid"},
    ),
)


def recognized(headers: Sequence[str]) -> Profile | None:
    """The profile whose whole signature is among the headers; of several, the one with the longest."""
    present = {fold(header) for header in headers}
    fitting = (profile for profile in PROFILES if present.issuperset(map(fold, profile.signature)))
    return max(fitting, key=lambda profile: len(profile.signature), default=None)


def named(name: str) -> Profile:
    """The profile of that name.

    Raises UsageError if there is none.
    """
    known = {profile.name: profile for profile in PROFILES}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise UsageError(f"there is no profile {name!r}{hint} The profiles are {', '.join(known)}")
