"""Services: everything a process of the server needs, assembled in one place. The only file that knows everyone."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from audit import published, queries, verify
from audit.baseline import Baseline
from audit.checkpoint import Verifier
from audit.offline import Report, notes_of
from audit.service import Ledger
from auth import grants
from auth.admission import Admission, AdmissionLimits
from auth.queries import client_rows
from auth.service import Authority
from dicomweb import ae, publishing, tables
from dicomweb.service import Imaging
from fhir_server.server import keys
from fhir_server.server.keys import SPOOL, RingSigner
from fhir_server.server.settings import Settings
from resources import search
from resources.policies import Where
from resources.search import Query
from store import collecting, items, policies
from store.access import Caller, Loop, Version, Waiting
from store.collecting import COMPARING, Collector, Rounds
from store.engine.clock import BelievedClock
from store.engine.database import Database, Waits, open_engine
from store.engine.ids import ordered_id, random_id
from store.engine.keyring import KeyRing
from store.loops import statistician, sweeper
from store.objects import CLEANING, ObjectStore
from store.unit_of_work import Store
from store.versions import standing
from subscriptions.endpoints import EndpointPolicy
from subscriptions.service import Subscriptions, SubscriptionSettings
from workflow.granting import Granting
from workflow.seal import Authority as TimeStamping
from workflow.seal import Seal
from workflow.service import Workflow

_BARE_DATE = re.compile(r"(?:^|[,$])(?:[a-z]{2})?\d{4}(?:-\d\d(?:-\d\d(?:T[\d:.]+)?)?)?(?=$|[,$])")
"""A value of a search, or a part of one, that may be a date without zone."""
_ZONES_KEPT = 10_000
CLOCK = "clock"
"""File of the data folder: the time that the processes of this host believe in."""
REGISTRIES = (client_rows, ae.rows, policies.rows, grants.rows)
"""What is registered by operators: the audit log says of each row what it was made."""
COMPARE_EVERY_S = 20.0
"""A folder of the object store is compared with the rows: the whole in an hour and a half."""
_ABANDONED_S = 3600.0
"""A temporary file of the object store that is older than this has no writer any more."""


@dataclass(frozen=True)
class Services:
    """What `create_app`, the worker, DIMSE and the command line are made of."""

    settings: Settings
    database: Database
    objects: ObjectStore
    keys: KeyRing
    ledger: Ledger
    authority: Authority
    store: Store
    imaging: Imaging
    subscriptions: Subscriptions
    workflow: Workflow
    granting: Granting
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    _zones: dict[str, tuple[ZoneInfo, float]] = field(default_factory=dict)
    """Organisation → the zone of its dates, and until when (monotonic) that is believed."""
    cors: bool = False
    """Whether pages of registered origins are answered so that browsers let them: `create_app` says so."""

    @staticmethod
    def of(
        settings: Settings,
        *,
        clock: Callable[[], datetime] | None = None,
        new_id: Callable[[], str] | None = None,
        waits: Waits | None = None,
    ) -> Services:
        """Assemble the server that `settings` describe. Opens nothing: each process connects when it first needs to.

        Whoever serves with it has `keys.prove` first that it is a node of this deployment.

        `waits`: how long the process waits for the database; `Settings.waits` where somebody waits for an answer.
        """
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        clock = clock or BelievedClock(settings.data / CLOCK)
        database = open_engine(settings.database_url, waits)
        objects = ObjectStore(settings.objects_folder)
        spool = settings.data / "spool"
        spool.mkdir(exist_ok=True, mode=0o700)
        bases = tuple(f"{base}/fhir" for base in settings.bases)
        ring = keys.ring(settings, database)
        ledger = Ledger(
            database,
            RingSigner(ring, settings),
            observer="Device/vigie",
            base_url=bases[0],
            base_urls=bases,
            platform=settings.platform,
            published=settings.checkpoints_file,
            spooled=settings.data / SPOOL,
            clock=clock,
            ids=new_id or ordered_id,
        )
        new_id = new_id or random_id
        authority = Authority(
            database,
            trail=ledger,
            platform=settings.platform,
            origins=settings.bases,
            clock=clock,
            token_lifetime_s=settings.token_lifetime_s,
            trusted_proxies=settings.trusted_proxies,
            admission=Admission(
                AdmissionLimits(
                    settings.client_in_flight,
                    settings.organization_in_flight,
                    settings.client_rate,
                    settings.organization_rate,
                )
            ),
        )
        store = Store(
            database,
            permit=authority.permit,
            trail=ledger,
            clock=clock,
            ids=new_id,
            platform=settings.platform,
            base_urls=bases,
            references="lenient" if settings.references == "lenient" else "strict",
            keys=ring,
        )
        workflow = Workflow(
            platform=settings.platform,
            zone=settings.report_zone,
            seal=Seal(ring, authority_of(settings)),
            recorded=ledger.catch_up,
            unpublished=publishing.unpublished,
        )
        imaging = Imaging(
            store,
            objects,
            authority.permit,
            spool=spool,
            quiet_s=settings.study_quiet_s,
            public_bases=tuple(f"{base}/dicom-web" for base in settings.bases),
            is_on_duty=workflow.regulates,
        )
        subscriptions = Subscriptions(
            store,
            authority.caller_of,
            SubscriptionSettings(ring, bases[0], endpoint_policy(settings)),
            clock=clock,
            on_delivered=workflow.delivered,
            holders_of=authority.holders,
        )
        # Order matters: the workflow completes a write before its outbox row is made.
        store.reads = workflow.openings
        store.observers += [*authority.observers, *workflow.observers, *imaging.observers, subscriptions.observer]
        return Services(
            settings, database, objects, ring, ledger, authority, store, imaging, subscriptions, workflow,
            Granting(authority.permit, settings.platform), clock, new_id,
        )

    @property
    def leap_s(self) -> float:
        """How far the wall clock is from the time that is believed, in seconds; 0 where it is believed."""
        return self.clock.leap_s if isinstance(self.clock, BelievedClock) else 0.0

    def _taken_s(self) -> float:
        return self.clock.taken_s if isinstance(self.clock, BelievedClock) else 0.0

    @property
    def bases(self) -> Sequence[str]:
        """The public bases; the first is the canonical one."""
        return self.settings.bases

    @property
    def max_body_bytes(self) -> int:
        """Largest FHIR body accepted."""
        return self.settings.max_body_bytes

    @property
    def loops(self) -> Sequence[Loop]:
        """What the background process turns."""
        return [
            self.ledger.loop(),
            self.baseline().loop(),
            *self.authority.loops,
            *self.imaging.loops,
            *self.subscriptions.loops,
            *self.workflow.loops(self.store, self._taken_s),
            sweeper(self.store),
            statistician(self.database),
            Loop(CLEANING, self._clean_objects, 600.0),
            Loop(COMPARING, self._rounds().step, COMPARE_EVERY_S),
        ]

    def collector(self) -> Collector:
        """What compares the object store with the rows that name objects."""
        return Collector(self.store, self.objects, tables.NAMING)

    def _rounds(self) -> Rounds:
        return Rounds(self.collector(), self.objects.folders(), Caller.system(self.settings.platform))

    def baseline(self) -> Baseline:
        """What gives digests to the versions from before there were any."""
        return Baseline(
            self.database, self.ledger, platform=self.settings.platform, clock=self.clock, registries=REGISTRIES
        )

    def parse(
        self,
        type_name: str | None,
        parameters: Sequence[tuple[str, str]],
        *,
        lenient: bool = False,
        organization: str = "",
    ) -> Query:
        """Search parameters as a Query, with this deployment's bases and clock.

        A date without zone is read in that of `organization` (policy `zone`), else in the deployment's.
        """
        has_bare = any(_BARE_DATE.search(value) for _, value in parameters)
        return search.parse(
            type_name,
            parameters,
            lenient=lenient,
            base_urls=self.fhir_bases,
            zone=self.zone(organization) if has_bare else UTC,
            now=self.clock(),
        )

    def zone(self, organization: str = "") -> tzinfo:
        """The zone of an organisation's dates: by policy its own, else the deployment's (`report_zone`)."""
        known, until = self._zones.get(organization, (None, 0.0))
        if known is None or time.monotonic() > until:
            known = ZoneInfo(self._zone_name(organization))
            if len(self._zones) >= _ZONES_KEPT:
                self._zones.clear()
            self._zones[organization] = (known, time.monotonic() + policies.LOOK_AGAIN_S)
        return known

    def _zone_name(self, organization: str) -> str:
        if not organization:
            return self.settings.report_zone
        with self.database.read() as connection:
            own = self.store.policies.value(connection, "zone", Where(organization, organization))
        return str(own) or self.settings.report_zone

    @property
    def fhir_bases(self) -> tuple[str, ...]:
        """The public FHIR bases."""
        return tuple(f"{base}/fhir" for base in self.settings.bases)

    def shown(self, version: Version, caller: Caller) -> bytes:
        """The text of a version as this caller may see it: channel headers are for their creator alone."""
        return self.subscriptions.shown(version, caller) if version.type == "Subscription" else version.content

    def verify_audit(self, trusted: str | None = None) -> Report:
        """Verify the audit log, whole or behind a trusted checkpoint, and against the published checkpoints too."""
        published = self.settings.checkpoints_file
        return verify.verify(
            self.database,
            self._verifier,
            platform=self.settings.platform,
            elsewhere=notes_of(published) if published.is_file() else (),
            published_to=published,
            trusted=trusted,
            keys=self._signing.verifiers,
            spooled=self.ledger.waiting_in_spool(),
            registries=REGISTRIES,
            damaged=self.ledger.spool_findings(),
        )

    def publish_checkpoint(self) -> int:
        """Publish the newest checkpoint, into a file that is made if there is none; how many records it signs."""
        self.ledger.catch_up()
        path = self.settings.checkpoints_file
        with self.database.read() as connection:
            note, size = queries.last_checkpoint(connection), queries.last_signed(connection)
        published.begin(path)
        if note is not None:
            published.append(path, note, is_torn=True)
        return size

    def export_audit(self, file: Path) -> int:
        """Export the log for the offline verifier; the number of records."""
        return verify.export(self.database, file, self._verifier)

    @property
    def _verifier(self) -> Verifier:
        return self._signing.verifier

    @property
    def _signing(self) -> RingSigner:
        return RingSigner(self.keys, self.settings)

    def queues(self, connection: Connection) -> Mapping[str, Waiting]:
        """Everything that waits to be worked off in the background: queue → how much, since when."""
        return {
            **self.ledger.queues(connection),
            **self.subscriptions.queues(connection),
            **self.imaging.queues(connection),
            **collecting.queues(connection),
            "versions-to-index": standing.waiting(connection),
        }

    def close(self) -> None:
        """Settle what is under way and let go of everything."""
        self.subscriptions.close()
        self.imaging.close()
        self.authority.close()
        self.ledger.close()
        self.database.dispose()

    def _clean_objects(self) -> bool:
        """Remove what writers that were killed left half written, of objects and of what was on its way."""
        now_s = time.time()
        self.objects.clean(_ABANDONED_S, now_s)
        for left in (self.settings.data / "spool").iterdir():
            with items.apart(CLEANING), suppress(FileNotFoundError):  # its owner may be faster
                if now_s - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()
        return False


def authority_of(settings: Settings) -> TimeStamping | None:
    """Who stamps the time on sealed reports; None: nobody."""
    if not settings.tsa_url:
        return None
    roots = Path(settings.tsa_certificates).read_bytes() if settings.tsa_certificates else b""
    return TimeStamping(settings.tsa_url, roots)


def endpoint_policy(settings: Settings) -> EndpointPolicy:
    """Which subscription endpoints this deployment sends to."""
    return EndpointPolicy(
        ports=frozenset(int(port) for port in settings.endpoint_ports),
        hosts=frozenset(host.lower() for host in settings.endpoint_hosts) or None,
        private_networks=tuple(ipaddress.ip_network(network) for network in settings.endpoint_networks),
        insecure_hosts=frozenset(settings.endpoints_insecure),
        allow_insecure_loopback=settings.endpoints_on_loopback,
    )
