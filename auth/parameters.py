"""What may be asked at each endpoint of the authorization server: one marshmallow schema for each.

Another parameter is ignored, as RFC 6749 §3.2 demands, and never put on record; any parameter twice is refused (same
section), declared or not (`forms`). The key set and the metadata take none: their RFCs know no query, and a client that
adds one (to pass a cache, say) gets the same document.

What an assertion says beside its registered claims is declared as well: `EXTENSIONS`.

RFC 6749 §3.2, §4.4.2; RFC 7521 §4.2; RFC 7009 §2.1; RFC 7662 §2.1; RFC 8414 §3; RFC 7517
"""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import EXCLUDE, Schema, fields, validate

from auth import metadata, purposes


class Published(Schema):
    """The key set and the metadata: nothing."""

    class Meta:
        unknown = EXCLUDE


class Authenticated(Schema):
    """How a client authenticates: by private_key_jwt alone."""

    class Meta:
        unknown = EXCLUDE

    client_assertion = fields.String(metadata={"clause": "RFC 7521 §4.2"})
    client_assertion_type = fields.String(metadata={"clause": "RFC 7521 §4.2", "on_record": True})
    client_id = fields.String(metadata={"clause": "RFC 7521 §4.2", "on_record": True})
    client_secret = fields.String(metadata={"clause": "RFC 6749 §2.3.1"})
    """Declared because it is refused, not ignored: who sends it means another method."""


class TokenAsked(Authenticated):
    """A token, by client credentials."""

    grant_type = fields.String(metadata={"clause": "RFC 6749 §4.4.2", "on_record": True})
    scope = fields.String(metadata={"clause": "RFC 6749 §4.4.2", "on_record": True})


class TokenShown(Authenticated):
    """A token to be revoked, or told about."""

    token = fields.String(metadata={"clause": "RFC 7009 §2.1, RFC 7662 §2.1"})
    token_type_hint = fields.String(metadata={"clause": "RFC 7009 §2.1, RFC 7662 §2.1", "on_record": True})


DECLARED: Mapping[str, Schema] = {
    metadata.TOKEN: TokenAsked(),
    metadata.INTROSPECT: TokenShown(),
    metadata.REVOKE: TokenShown(),
    metadata.JWKS: Published(),
    metadata.METADATA: Published(),
}
"""Path → its parameters. A test walks them."""


class Purpose(Schema):
    """A purpose of use as a coding. Which codes there are depends on the client: `purposes.allowed`."""

    class Meta:
        unknown = EXCLUDE

    system = fields.String(required=True, validate=validate.Equal(purposes.SYSTEM))
    code = fields.String(required=True)


class IheIua(Schema):
    """The extension of IHE IUA. A token has one purpose, as its audit records have."""

    class Meta:
        unknown = EXCLUDE

    purpose_of_use = fields.List(
        fields.Nested(Purpose), validate=validate.Length(equal=1), metadata={"clause": "IHE ITI-71 §3.71.4.2.2.1.1"}
    )


class Extensions(Schema):
    """The claim `extensions` of an assertion; those of others are ignored."""

    class Meta:
        unknown = EXCLUDE

    ihe_iua = fields.Nested(IheIua, metadata={"clause": "IHE ITI-71 §3.71.4.2.2.1.1"})


EXTENSIONS = Extensions()


def on_record(path: str) -> tuple[str, ...]:
    """The parameters of an endpoint that may be put on record: none of them is a secret."""
    return tuple(name for name, field in DECLARED[path].fields.items() if field.metadata.get("on_record"))
