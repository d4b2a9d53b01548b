// `coffer vault check`: reads everything, names what is wrong, changes nothing.
#include <set>

#include "coffer/format/record.h"
#include "coffer/vault/vault.h"
#include "layout.h"

namespace coffer {

Result<std::vector<Finding>> Vault::check() const {
  std::vector<Finding> out;
  std::set<std::string> known;
  std::vector<AppEntry> entries;  // read first: no call of a storage runs inside another one
  COFFER_CHECK(storage_.list(layout::kAppsSpace, "", true, [&](Stored s) {
    if (s.key == layout::kMovedKey) return true;
    auto payload = open_signed(s.value, kAppLabel, pins_.writers);
    auto entry = payload ? decode_app(*payload) : std::unexpected(payload.error());
    if (entry && entry->name != s.key) entry = fail(ErrorCode::kDataLoss, "belongs to another App");
    if (entry) {
      known.insert(layout::space(entry->app_id));
      entries.push_back(*std::move(entry));
    } else {
      out.push_back({s.key, "directory entry", entry.error().message});
    }
    return true;
  }));
  for (const AppEntry &entry : entries) check_app(entry, out);
  COFFER_TRY(const auto spaces, storage_.spaces(layout::kAppPrefix));
  for (const std::string &space : spaces)
    if (!known.contains(space)) out.push_back({"", space, "belongs to no App of the directory"});
  return out;
}

void Vault::check_app(const AppEntry &entry, std::vector<Finding> &out) const {
  const auto wrong = [&](std::string object, const Error &e) {
    out.push_back({entry.name, std::move(object), e.message});
  };
  const auto found = app(entry.name);
  if (!found) return wrong("App key record", found.error());
  const auto head = newest(*found);
  if (!head) return wrong("manifest head", head.error());

  // The chain, back to version 1.
  Hash expected = head->head.hash;
  std::vector<uint64_t> chained;
  for (uint64_t v = head->version(); v >= 1;) {
    const auto stored = storage_.get(layout::space(found->id()), layout::header(v));
    if (!stored) return wrong(layout::header(v), stored.error());
    if (!*stored) return wrong(layout::header(v), Error{ErrorCode::kDataLoss, "is missing"});
    const auto header = open_header((*stored)->value, pins_.writers, found->id());
    if (!header) return wrong(layout::header(v), header.error());
    if (header->hash != expected || header->header.version != v)
      return wrong(layout::header(v), Error{ErrorCode::kDataLoss, "does not chain to the one after it"});
    expected = header->header.previous;
    chained.push_back(v);
    v = layout::version_before(header->header);
  }
  if (expected != Hash{})
    wrong(layout::header(1), Error{ErrorCode::kDataLoss, "is not the first of its chain"});

  std::set<Hash> checked;
  const auto check_records = [&](const Manifest &m) {
    for (const Entry &e : m.entries) {
      if (!checked.insert(e.record).second) continue;
      const auto bytes = record(*found, e);
      const auto parsed = bytes ? decode_record(*bytes) : std::unexpected(bytes.error());
      if (!parsed) wrong("secret " + e.name, parsed.error());
    }
  };
  check_records(*head);
  std::set<uint64_t> versions = {head->version()};
  const auto check_version = [&](const std::string &object, uint64_t version) {
    if (!versions.insert(version).second) return;
    const auto manifest = at(*found, version);
    if (!manifest) return wrong(object, manifest.error());
    check_records(*manifest);
  };
  for (const uint64_t v : chained)
    if (v >= layout::oldest_kept(head->head.header)) check_version(layout::header(v), v);

  // What a Machine may be booted from: its newest launch spec, the one before it, and their manifests.
  const auto all = machines(*found);
  if (!all) return wrong("Machines", all.error());
  for (const StoredMachine &m : *all) {
    const std::string object = "Machine " + m.record.id;
    const auto check_spec = [&](const Result<SignedSpec> &s) {
      if (!s) return wrong(object, s.error());
      check_version(object, s->spec.version);
    };
    const auto newest_spec = spec(*found, m.record, m.record.spec_number);
    check_spec(newest_spec);
    if (newest_spec && newest_spec->spec.undo != Hash{})
      check_spec(spec_by_hash(*found, m.record, newest_spec->spec.undo));
  }
  if (const auto r = releases(*found); !r) wrong("releases", r.error());
  if (const auto r = rollout(*found); !r) wrong("roll-out", r.error());
}

}  // namespace coffer
