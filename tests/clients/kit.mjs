// fhir-kit-client, unmodified, against a running server. Arguments: FHIR base; the token comes by the environment.
// Prints one line per check that passed; the first that fails ends it with a non-zero status.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const installed = createRequire(`${process.env.KIT}/package.json`);
const { Client } = await import(pathToFileURL(`${process.env.KIT}/node_modules/fhir-kit-client/dist/index.js`));
assert.ok(installed);

const base = process.argv[2];
const client = new Client({ baseUrl: base, bearerToken: process.env.TOKEN });
const mark = Math.random().toString(36).slice(2, 12);
const person = { resourceType: "Patient", name: [{ family: `Kit${mark}`, given: ["Ève"] }], birthDate: "1980-05-06" };
const responseOf = (resource) => Client.httpFor(resource).response;
const refused = async (promise, status) => {
  const error = await promise.then(() => assert.fail("it was not refused"), (thrown) => thrown);
  assert.equal(error.response?.status ?? error.status, status);
  assert.equal(error.response.data.resourceType, "OperationOutcome");
  return error.response.data;
};

const checks = {
  async "capability statement"() {
    const statement = await client.capabilityStatement();
    assert.equal(statement.fhirVersion, "4.0.1");
  },
  async "smartAuthMetadata"() {
    const found = await client.smartAuthMetadata();
    assert.equal(found.tokenUrl.href, new URL("/oauth/token", base).href);
  },
  async "create, read, vread, update"() {
    const made = await client.create({ resourceType: "Patient", body: person });
    assert.equal(responseOf(made).status, 201);
    assert.match(responseOf(made).headers.get("location"), new RegExp(`^${base}/Patient/${made.id}/_history/1$`));
    const read = await client.read({ resourceType: "Patient", id: made.id });
    assert.deepEqual(read.name, person.name);
    assert.equal(responseOf(read).headers.get("etag"), 'W/"1"');
    const body = { ...read, active: true };
    const updated = await client.update({
      resourceType: "Patient", id: made.id, body, options: { headers: { "If-Match": 'W/"1"' } },
    });
    assert.equal(updated.meta.versionId, "2");
    const again = { resourceType: "Patient", id: made.id, body, options: { headers: { "If-Match": 'W/"1"' } } };
    await refused(client.update(again), 412);
    const first = await client.vread({ resourceType: "Patient", id: made.id, version: "1" });
    assert.equal(first.active, undefined);
  },
  async "delete, then 410"() {
    const made = await client.create({ resourceType: "Patient", body: person });
    await client.delete({ resourceType: "Patient", id: made.id });
    await refused(client.read({ resourceType: "Patient", id: made.id }), 410);
    await refused(client.read({ resourceType: "Patient", id: "never-was" }), 404);
  },
  async "search by GET and by POST"() {
    const searchParams = { name: `kit${mark}`, _sort: "_id" };
    const got = await client.resourceSearch({ resourceType: "Patient", searchParams });
    const posted = await client.resourceSearch({
      resourceType: "Patient", searchParams, options: { postSearch: true },
    });
    assert.equal(got.total ?? got.entry.length, got.entry.length);
    assert.deepEqual(posted.entry.map((e) => e.resource.id), got.entry.map((e) => e.resource.id));
    const outcome = await refused(client.resourceSearch({ resourceType: "Patient", searchParams: { hair: "red" } }), 400);
    assert.match(outcome.issue[0].diagnostics ?? outcome.issue[0].details.text, /hair/);
  },
  async "nextPage to the last"() {
    for (let n = 0; n < 4; n++) await client.create({ resourceType: "Patient", body: person });
    let page = await client.search({ resourceType: "Patient", searchParams: { name: `kit${mark}`, _count: 2 } });
    const seen = new Set();
    while (page) {
      for (const entry of page.entry) seen.add(entry.resource.id);
      page = await client.nextPage({ bundle: page });
    }
    assert.equal(seen.size, 5);
  },
  async "history"() {
    const made = await client.create({ resourceType: "Patient", body: person });
    await client.update({ resourceType: "Patient", id: made.id, body: { ...made, active: false } });
    const history = await client.history({ resourceType: "Patient", id: made.id });
    assert.equal(history.type, "history");
    assert.deepEqual(history.entry.map((e) => e.request.method), ["PUT", "POST"]);
  },
  async "batch: each entry by itself"() {
    const answer = await client.batch({
      body: {
        resourceType: "Bundle", type: "batch",
        entry: [
          { resource: person, request: { method: "POST", url: "Patient" } },
          { request: { method: "GET", url: "Patient/never-was" } },
        ],
      },
    });
    assert.deepEqual(answer.entry.map((e) => e.response.status.slice(0, 3)), ["201", "404"]);
  },
  async "transaction, and resolve of what it made"() {
    const who = "urn:uuid:6a2f2f0a-0c83-4d0e-9d0b-5c4f4c1a7a11";
    const answer = await client.transaction({
      body: {
        resourceType: "Bundle", type: "transaction",
        entry: [
          { fullUrl: who, resource: person, request: { method: "POST", url: "Patient" } },
          {
            resource: { resourceType: "Condition", subject: { reference: who }, code: { text: mark } },
            request: { method: "POST", url: "Condition" },
          },
        ],
      },
    });
    const location = answer.entry[1].response.location;
    const condition = await client.request(location.split("/_history")[0]);
    const patient = await client.resolve({ reference: condition.subject.reference });
    assert.equal(patient.name[0].family, `Kit${mark}`);
    const absolute = await client.resolve({ reference: `${base}/${condition.subject.reference}` });
    assert.equal(absolute.id, patient.id);
  },
  async "operation $validate"() {
    const outcome = await client.operation({ name: "validate", resourceType: "Patient", input: person });
    assert.ok(outcome.issue.every((issue) => issue.severity !== "error"));
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    console.error(`FAILED ${name}: ${error.stack}\n${JSON.stringify(error.response?.data ?? {})}`);
    process.exit(1);
  }
  console.log(name);
}
