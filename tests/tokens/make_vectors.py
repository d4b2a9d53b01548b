#!/usr/bin/python3
"""Vectors by pymacaroons (Debian: python3-pymacaroons 0.13), written to pymacaroons.tsv beside this file:
  /usr/bin/python3 make_vectors.py > pymacaroons.tsv
Columns: what, root key in hex, identifier in hex, caveats in hex with commas between, token."""
from pymacaroons import MACAROON_V1, MACAROON_V2, Macaroon
from pymacaroons.serializers import JsonSerializer

KEY = bytes(range(32))
ID = b"\x01" + bytes(range(0xF0, 0x100))


def make(what, key=KEY, identifier=ID, location=None, caveats=(), third=False, version=MACAROON_V2, serializer=None):
    m = Macaroon(location=location, identifier=identifier, key=key, version=version)
    for c in caveats:
        m.add_first_party_caveat(c)
    if third:
        m.add_third_party_caveat("https://example.org", "a key", "who are you")
    text = m.serialize(serializer=serializer) if serializer else m.serialize()
    print(what, key.hex(), identifier.hex(), ",".join(c.encode().hex() for c in caveats), text, sep="\t")


make("no caveat")
make("one caveat", caveats=["app = web"])
make("one of each", caveats=["app = web,api", "allow = list,set", "expires = 2027-01-01T00:00:00Z"])
make("64 caveats", caveats=["app = a%d" % i for i in range(64)])
make("a caveat of 300 bytes", caveats=["x" * 300])
make("a root key of 100 bytes", key=bytes(range(255, 155, -1)))
make("refused: 65 caveats", caveats=["app = a%d" % i for i in range(65)])
make("refused: over 8,192 bytes", caveats=["x" * 9000])
make("refused: location", location="coffer", caveats=["app = web"])
make("refused: third-party", caveats=["app = web"], third=True)
make("refused: v1", identifier=b"text", caveats=["app = web"], version=MACAROON_V1)
make("refused: JSON", caveats=["app = web"], serializer=JsonSerializer())
