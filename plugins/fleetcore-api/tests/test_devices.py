"""Devices over the operators' API."""


async def register(client, name, **members):
    answer = await client.post("/devices", json={"id": name, "type": "sensor", **members})
    assert answer.status_code == 201, answer.text
    return answer


async def test_a_registered_device_can_be_read_with_its_etag(admin):
    made = await register(admin, "dev1", tags=["lab"], attributes={"floor": 3}, location={"lat": 1.5, "lon": 2})

    read = await admin.get(made.headers["location"].removeprefix("/api/v1"))

    assert read.json()["attributes"] == {"floor": 3}
    place = read.json()["location"]
    assert (place["lat"], place["lon"], place["accuracy_m"]) == (1.5, 2.0, None)
    assert read.headers["etag"] == made.headers["etag"] == '"1"'


async def test_pages_show_every_device_once_in_order(admin):
    for number in range(7):
        await register(admin, f"d{number}", tags=["odd"] if number % 2 else [])

    found, cursor = [], None
    while True:
        page = (await admin.get("/devices", params={"limit": 3, **({"cursor": cursor} if cursor else {})})).json()
        found += [one["id"] for one in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    odd = (await admin.get("/devices", params={"where": "tags has 'odd'"})).json()

    assert found == [f"d{number}" for number in range(7)]
    assert [one["id"] for one in odd["items"]] == ["d1", "d3", "d5"]


async def test_a_change_needs_the_version_that_was_read(admin):
    await register(admin, "dev1")

    first = await admin.patch("/devices/dev1", json={"name": "One"}, headers={"If-Match": '"1"'})
    second = await admin.patch("/devices/dev1", json={"name": "Two"}, headers={"If-Match": '"1"'})

    assert (first.status_code, first.headers["etag"]) == (200, '"2"')
    assert (second.status_code, second.json()["code"]) == (412, "version_conflict")
    assert (await admin.get("/devices/dev1")).json()["name"] == "One"


async def test_deleting_retires_and_retired_is_final(admin):
    await register(admin, "dev1")

    gone = await admin.delete("/devices/dev1", params={"reason": "broken"})
    back = await admin.post("/devices/dev1/lifecycle", json={"state": "active"})

    assert gone.status_code == 204
    assert (await admin.get("/devices/dev1")).json()["lifecycle"] == "retired"
    assert (back.status_code, back.json()["code"]) == (409, "illegal_transition")


async def test_a_wrong_body_is_a_coded_problem(admin):
    for body, status, code in (
        (b'{"type": "x"}', 422, "schema_invalid"),
        (b'{"id": "dev1", "type": "x", "colour": 1}', 422, "schema_invalid"),
        (b'{"id": "../../x", "type": "x"}', 422, "name_invalid"),
        (b'{"id": "a", "id": "b", "type": "x"}', 400, "payload_unreadable"),
        (b"[" * 5000, 400, "payload_unreadable"),
        (b'{"id": "dev1", "type": NaN}', 400, "payload_unreadable"),
        (b"", 422, "schema_invalid"),
    ):
        answer = await admin.post("/devices", content=body, headers={"Content-Type": "application/json"})

        assert answer.headers["content-type"] == "application/problem+json", body
        assert (answer.status_code, answer.json()["code"]) == (status, code), body


async def test_a_query_that_cannot_be_read_names_the_column(admin):
    answer = await admin.get("/devices", params={"where": "type = 'x'; DROP TABLE device"})

    assert (answer.status_code, answer.json()["code"]) == (400, "query_syntax")
    assert "column" in answer.text


async def test_registering_twice_is_a_conflict(admin):
    await register(admin, "dev1")

    answer = await admin.post("/devices", json={"id": "DEV1", "type": "sensor"})

    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


async def test_no_change_of_any_kind_passes_over_a_version_that_was_not_read(admin):
    await register(admin, "dev1")
    await admin.post("/groups", json={"id": "lab"})
    old = {"If-Match": '"7"'}

    answers = [
        await admin.post("/devices/dev1/lifecycle", json={"state": "suspended"}, headers=old),
        await admin.delete("/devices/dev1", headers=old),
        await admin.delete("/devices/dev1", params={"purge": True}, headers=old),
        await admin.delete("/groups/lab", headers=old),
    ]

    assert [(one.status_code, one.json()["code"]) for one in answers] == [(412, "version_conflict")] * 4
    assert (await admin.get("/devices/dev1")).headers["etag"] == '"1"'
    assert (await admin.delete("/groups/lab", headers={"If-Match": '"1"'})).status_code == 204
    assert (await admin.delete("/devices/dev1", params={"purge": True}, headers={"If-Match": '"1"'})).status_code == 204


async def test_a_device_is_found_where_it_was_put_last(admin):
    await register(admin, "dev1", location={"lat": 1, "lon": 2})

    await admin.patch("/devices/dev1", json={"location": {"lat": 50, "lon": 60}})

    found = (await admin.get("/devices", params={"where": "location within circle(50, 60, 1 km)"})).json()["items"]
    assert [one["id"] for one in found] == ["dev1"]
    assert (await admin.get("/devices/dev1/location")).json()["lat"] == 50


async def test_a_request_without_its_body_is_told_so(admin):
    answer = await admin.post("/devices")

    assert (answer.status_code, answer.json()["detail"]) == (422, "The request has no body")


async def test_a_name_outside_its_alphabet_has_the_code_and_the_remedy_of_the_library(admin):
    for body in (
        {"id": "a b", "type": "s"},
        {"id": "a", "type": "<s>"},
        {"id": "a", "type": "s", "tags": ["ok", "{{7*7}}"]},
    ):
        answer = await admin.post("/devices", json=body)

        assert (answer.status_code, answer.json()["code"]) == (422, "name_invalid")
        assert answer.json()["remedy"].startswith("Use 1-")


async def test_what_is_made_says_where_it_is_read(admin):
    async def place(path, **body):
        return (await admin.post(path, json=body)).headers.get("location")

    assert await place("/devices", id="d", type="x") == "/api/v1/devices/d"
    assert await place("/gateways", id="gw") == "/api/v1/devices/gw"
    assert await place("/groups", id="site/hall") == "/api/v1/groups/site%2Fhall"
    assert await place("/roles", principal="ana", role="viewer") is None  # a grant is read in the list alone
