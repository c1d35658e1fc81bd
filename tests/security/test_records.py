"""Operations are one access each, whatever they read on the way. (The fixtures count: `tests.counting`.)

IHE BALP 1.1.4 §3:5.7
"""

from __future__ import annotations

from fhir_server.demo.hospital import Endpoint
from tests.fhir_server.conftest import Api
from tests.security.scene import World


def test_operations_of_a_lived_through_emergency_are_one_access_each(api: Api) -> None:
    receivers = {"a": Endpoint(), "b": Endpoint()}
    try:
        world = World(api, receivers)
        world.live_through()
        assert api.radiologist.post(f"{world.refs['draft']}/$sign", None).status_code == 200
        assert api.hospital_a.get(f"{world.refs['sub-reports']}/$status").status_code == 200
        assert api.hospital_a.get("Subscription/$status").status_code == 200
        assert api.hospital_a.get(f"{world.refs['sub-reports']}/$events?content=full-resource").status_code == 200
        assert api.regulator.get("PractitionerRole/$on-duty").status_code == 200
    finally:
        for receiver in receivers.values():
            receiver.close()
