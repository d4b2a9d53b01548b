#include "key_store.h"

#include "coffer/format/magic.h"

namespace coffer::key_store {

Bytes encode(const WrappedKey &w) {
  return begin("cfu1").text(w.key).text(w.version).bytes(w.ciphertext).bytes(w.annotations).take();
}

Result<WrappedKey> decode_wrapped(ByteSpan in) {
  Decoder d(in);
  WrappedKey w;
  begins(d, "cfu1");
  w.key = d.text();
  w.version = d.text();
  const ByteSpan ciphertext = d.bytes(), annotations = d.bytes();
  if (!d.done()) return malformed("wrapped root key");
  w.ciphertext.assign(ciphertext.begin(), ciphertext.end());
  w.annotations.assign(annotations.begin(), annotations.end());
  return w;
}

SecretBytes derived(const SecretBytes &root, std::string_view purpose) {
  return *hkdf(root.reveal(), {}, Encoder().text(purpose).take(), 32);  // 32 bytes are always in range
}

Result<Bytes> wrap(const SecretBytes &root, const SecretBytes &key, ByteSpan aad) {
  const auto nonce = random_array<24>();
  Aead aead(derived(root, "coffer wrap v1").reveal());
  COFFER_TRY(const Bytes sealed, aead.seal(nonce, aad, key.reveal()));
  return Encoder().raw(nonce).raw(sealed).take();
}

Result<SecretBytes> unwrap(const SecretBytes &root, ByteSpan wrapped, ByteSpan aad) {
  Decoder d(wrapped);
  const auto nonce = d.array<24>();
  if (!d.ok()) return malformed("wrapped key");
  Aead aead(derived(root, "coffer wrap v1").reveal());
  return aead.open(nonce, aad, wrapped.subspan(24));
}

Bytes private_aad(const AppId &app, uint32_t epoch) {
  return Encoder().text("coffer app private key v1").bytes(app).u32(epoch).take();
}
Bytes identity_aad() { return Encoder().text("coffer identity v1").take(); }

Bytes encode(const std::vector<HeldKey> &keys) {
  Encoder e = begin("ckp1");
  write_list(e, keys, [](Encoder &to, const HeldKey &k) { to.u32(k.epoch).bytes(k.wrapped); });
  return e.take();
}

Result<std::vector<HeldKey>> decode_held(ByteSpan in) {
  Decoder d(in);
  std::vector<HeldKey> out;
  if (as_text(d.raw(4)) == "ckp1") {
    out = read_list<HeldKey>(d, [](Decoder &from) {
      const uint32_t epoch = from.u32();
      const ByteSpan wrapped = from.bytes();
      return HeldKey{epoch, Bytes(wrapped.begin(), wrapped.end())};
    });
  } else {
    Decoder old(in);
    const uint32_t epoch = old.u32();
    const ByteSpan wrapped = old.raw(old.left());
    out.push_back({epoch, Bytes(wrapped.begin(), wrapped.end())});
    d.raw(d.left());
  }
  if (!d.done() || out.empty()) return malformed("private key of the App");
  return out;
}

Bytes encode(const SeenHead &s) { return begin("cfh1").u64(s.version).raw(s.header).take(); }
Result<SeenHead> decode_seen(ByteSpan in) {
  Decoder d(in);
  SeenHead s;
  begins(d, "cfh1");
  s.version = d.u64();
  s.header = d.array<32>();
  if (!d.done()) return malformed("newest seen header");
  return s;
}

Result<SeenHead> reach(const std::optional<SeenHead> &seen, const std::vector<Bytes> &headers,
                       const AppId &app, std::span<const PublicKey> writers,
                       std::map<uint64_t, Hash> &chain) {
  std::optional<SeenHead> at = seen;
  if (at) chain.emplace(at->version, at->header);
  std::optional<HashedHeader> previous;
  for (const Bytes &envelope : headers) {
    COFFER_TRY(const HashedHeader h, because("untrusted_header", open_header(envelope, writers, app)));
    const uint64_t version = h.header.version;
    const uint64_t before = h.header.restored_from ? h.header.restored_from : version - 1;
    if (previous && (h.header.previous != previous->hash || before != previous->header.version))
      return unsound("broken_chain", "manifest header " + std::to_string(version) + " does not chain");
    if (at && version <= at->version) {
      if (version == at->version && h.hash != at->header)
        return unsound("fork", "there are two manifests of version " + std::to_string(version),
                       "The vault was forked or rolled back: restore it from a backup.");
    } else if (h.header.restored_from) {
      return unsound("broken_chain",
                     "manifest header " + std::to_string(version) +
                         " was made by a restore that the key service knows nothing of",
                     "Run `coffer vault restore` with the backup.");
    } else if (at ? version != at->version + 1 || h.header.previous != at->header : version != 1) {
      return unsound("broken_chain", "manifest header " + std::to_string(version) +
                                         " does not follow version " + std::to_string(at ? at->version : 0) +
                                         ", the newest one seen");
    } else {
      at = SeenHead{version, h.hash};
    }
    chain.emplace(version, h.hash);
    previous = h;
  }
  if (!at) return unsound("rolled_back", "no manifest header");
  if (seen && (!previous || previous->header.version < seen->version))
    return unsound("rolled_back",
                   "the vault's newest manifest is " +
                       std::to_string(previous ? previous->header.version : 0) + ", but version " +
                       std::to_string(seen->version) + " has been seen",
                   "The vault was rolled back: put the newer copy back, or restore a backup.");
  return *at;
}

}  // namespace coffer::key_store
