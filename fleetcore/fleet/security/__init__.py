"""Security: identities of devices, their certificates and tokens, and enrolment."""

from fleetcore.fleet.security.authority import Authority
from fleetcore.fleet.security.enrollment import EnrollmentRecord
from fleetcore.fleet.security.folder import PkiFolder
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.fleet.security.issuing import DeviceDirectory
from fleetcore.fleet.security.manager import Report, SecurityManager
from fleetcore.fleet.security.profiles import Profile
from fleetcore.fleet.security.server_tls import FleetTls
from fleetcore.model.credential import Refusal

__all__ = [
    "Authority",
    "CertificateRecord",
    "DeviceDirectory",
    "EnrollmentRecord",
    "FleetTls",
    "PkiFolder",
    "Profile",
    "Refusal",
    "Report",
    "SecurityManager",
]
