#!/usr/bin/python3
"""What anybody can do to the token on stdin with an off-the-shelf library (Debian: python3-pymacaroons).

  with_pymacaroons.py add CAVEAT...   narrowed, as it is meant
  with_pymacaroons.py remove N        without its Nth caveat, counted from 0
  with_pymacaroons.py reverse         its caveats the other way round
  with_pymacaroons.py flip            with one bit of its signature changed
  with_pymacaroons.py third-party     with a third-party caveat
"""
import sys

from pymacaroons import Macaroon

PREFIX = "coffer_"
what, *arguments = sys.argv[1:]
m = Macaroon.deserialize(sys.stdin.read().strip()[len(PREFIX):])
if what == "add":
    for caveat in arguments:
        m.add_first_party_caveat(caveat)
elif what == "remove":
    del m.caveats[int(arguments[0])]
elif what == "reverse":
    m.caveats.reverse()
elif what == "flip":
    signature = bytearray.fromhex(m.signature)
    signature[9] ^= 1
    m.signature = signature.hex()
elif what == "third-party":
    m.add_third_party_caveat("https://example.org", "a key", "who are you")
else:
    sys.exit(__doc__)
print(m.serialize())
