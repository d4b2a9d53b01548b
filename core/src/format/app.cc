#include "coffer/format/app.h"

#include "coffer/format/magic.h"

namespace coffer {

Bytes encode(const AppEntry &a) { return begin("cfa1").text(a.name).raw(a.app_id).u64(a.created_ms).take(); }

Result<AppEntry> decode_app(ByteSpan payload) {
  Decoder d(payload);
  AppEntry a;
  begins(d, "cfa1");
  a.name = d.text();
  a.app_id = d.array<16>();
  a.created_ms = d.u64();
  if (!d.done()) return malformed("App entry");
  return a;
}

Bytes encode(const AppKeyRecord &k) {
  Encoder e = begin("cfk1");
  e.text(k.name).raw(k.app_id).u32(k.epoch).raw(k.public_key).u8(1).u8(k.replaces ? 1 : 0);
  if (k.replaces) e.raw(*k.replaces);
  return e.take();
}

Result<AppKeyRecord> decode_app_key(ByteSpan payload) {
  Decoder d(payload);
  AppKeyRecord k;
  begins(d, "cfk1");
  k.name = d.text();
  k.app_id = d.array<16>();
  k.epoch = d.u32();
  k.public_key = d.array<32>();
  if (d.u8() != 1) d.reject();
  if (read_flag(d)) k.replaces = d.array<16>();
  if (!d.done()) return malformed("App key record");
  return k;
}

}  // namespace coffer
