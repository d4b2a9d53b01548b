// `coffer vault check`: reads everything, names what is wrong, changes nothing.
#include <set>

#include "coffer/format/record.h"
#include "coffer/vault/vault.h"
#include "layout.h"

namespace coffer {

Result<std::vector<Finding>> Vault::check() const {
  std::vector<Finding> out;
  std::set<std::string> known;
  COFFER_CHECK(storage_.list(layout::kAppsSpace, "", true, [&](Stored s) {
    auto payload = open_signed(s.value, kAppLabel, pins_.writers);
    auto entry = payload ? decode_app(*payload) : std::unexpected(payload.error());
    if (entry && entry->name != s.key) entry = fail(ErrorCode::kDataLoss, "belongs to another App");
    if (entry) {
      known.insert(layout::space(entry->app_id));
      check_app(*entry, out);
    } else {
      out.push_back({s.key, "directory entry", entry.error().message});
    }
    return true;
  }));
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
  for (uint64_t v = head->version(); v >= 1; --v) {
    const auto stored = storage_.get(layout::space(found->id()), layout::header(v));
    if (!stored) return wrong(layout::header(v), stored.error());
    if (!*stored) return wrong(layout::header(v), Error{ErrorCode::kDataLoss, "is missing"});
    const auto header = open_header((*stored)->value, pins_.writers, found->id());
    if (!header) return wrong(layout::header(v), header.error());
    if (header->hash != expected || header->header.version != v)
      return wrong(layout::header(v), Error{ErrorCode::kDataLoss, "does not chain to the one after it"});
    expected = header->header.previous;
  }
  if (expected != Hash{})
    wrong(layout::header(1), Error{ErrorCode::kDataLoss, "is not the first of its chain"});

  for (const Entry &e : head->entries) {
    const auto bytes = record(*found, e);
    const auto parsed = bytes ? decode_record(*bytes) : std::unexpected(bytes.error());
    if (!parsed) wrong("secret " + e.name, parsed.error());
  }
  const auto all = machines(*found);
  if (!all) return wrong("Machines", all.error());
  for (const StoredMachine &m : *all)
    if (const auto s = spec(*found, m.record, m.record.spec_number); !s)
      wrong("Machine " + m.record.id, s.error());
  if (const auto r = releases(*found); !r) wrong("releases", r.error());
}

}  // namespace coffer
