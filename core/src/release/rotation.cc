// `coffer keys rotate`.  Each step is stored before the next one is taken, and each can be taken again:
//   1. the key service makes the key pair of the next epoch
//   2. its record becomes the App's in the vault: what is set from now on is sealed for it
//   3. the head's records are sealed anew by the key service, and stored beside the old ones, by hash
//   4. one commit: the next manifest, which names them
//   5. the key service forgets the epochs for which nothing in the vault is sealed any more
// Cut off in between, the App works with both epochs, and the next rotation goes on at the first step that is
// not done.
#include <algorithm>

#include "coffer/format/record.h"
#include "coffer/release/deployer.h"

namespace coffer {
namespace {

constexpr int kMaxTries = 50;
// Of one request to the key service.
constexpr size_t kMostRecords = 256, kMostBytes = 4 << 20;

}  // namespace

// Asks the key service to seal `entries` of `head` anew; answers old hash and new record.
Result<std::vector<std::pair<Hash, Bytes>>> Deployer::reseal(const App &app, const Manifest &head,
                                                             std::span<const Entry *const> entries) {
  ResealRequest request;
  request.app_id = app.id();
  std::vector<std::string> names;
  for (const Entry *e : entries) {
    COFFER_TRY(Bytes record, vault_.record(app, *e));
    request.records.emplace_back(e->name, std::move(record));
    names.push_back(e->name);
  }
  COFFER_TRY(const auto seen, keys_.seen(app.id()));
  const uint64_t first = std::min(seen ? seen->version : 1, head.version());
  COFFER_TRY(request.headers, vault_.headers(app, first, head.version()));
  COFFER_TRY(ManifestProof proof, vault_.proof(app, head, names));
  request.proof_header = std::move(proof.header);
  request.proof_body = std::move(proof.body);
  request.proof_parts = std::move(proof.parts);
  const Bytes bytes = encode(request);
  COFFER_TRY(const Bytes signed_answer, keys_.reseal(bytes));

  COFFER_TRY(const ByteSpan payload,
             open_signed(signed_answer, kResealAnswerLabel, {&vault_.pins().identity, 1}));
  COFFER_TRY(ResealAnswer answer, decode_reseal_answer(payload));
  if (answer.request != sha256(bytes) || answer.records.size() != entries.size())
    return fail(ErrorCode::kDataLoss, "the key service answered another request");
  if (answer.epoch != app.key.epoch)
    return fail(ErrorCode::kAborted, "App " + app.name() + " is being rotated by others", "Try again.");
  std::vector<std::pair<Hash, Bytes>> out;
  for (size_t i = 0; i < entries.size(); ++i) {
    auto &[name, bytes_of] = answer.records[i];
    COFFER_TRY(const Record record, decode_record(bytes_of));
    if (name != entries[i]->name || record.epoch != app.key.epoch)
      return fail(ErrorCode::kDataLoss, "the key service answered another request");
    out.emplace_back(entries[i]->record, std::move(bytes_of));
  }
  return out;
}

// Steps 3 and 4.  `secrets`: how many.
Result<Manifest> Deployer::seal_head_anew(const App &app, bool drop_older, size_t &secrets) {
  std::map<Hash, Hash> replaced;
  std::optional<std::map<Hash, uint32_t>> old;
  uint64_t swept = 0;
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const auto seen, keys_.seen(app.id()));
    COFFER_TRY(const Manifest head, newest(app));
    COFFER_TRY(const uint64_t swept_now, vault_.sweep_revision(app));
    if (!old || swept_now != swept) {
      // A sweep may have taken what no manifest names yet.
      replaced.clear();
      swept = swept_now;
      COFFER_TRY(old, vault_.old_records(app));
    }
    std::vector<const Entry *> todo;
    secrets = 0;
    for (const Entry &e : head.entries) {
      if (!old->contains(e.record)) continue;
      ++secrets;
      if (!replaced.contains(e.record)) todo.push_back(&e);
    }
    const auto seal = [&]() -> Result<void> {
      for (size_t at = 0; at < todo.size();) {
        size_t n = 0, bytes = 0;
        while (at + n < todo.size() && n < kMostRecords && bytes < kMostBytes) {
          COFFER_TRY(const Bytes record, vault_.record(app, *todo[at + n]));
          bytes += record.size();
          ++n;
        }
        COFFER_TRY(auto sealed, reseal(app, head, std::span(todo).subspan(at, n)));
        std::vector<Bytes> records;
        std::vector<std::pair<Hash, Hash>> pairs;
        for (auto &[from, record] : sealed) {
          pairs.emplace_back(from, sha256(record));
          records.push_back(std::move(record));
        }
        COFFER_CHECK(vault_.put_records(app, records));
        replaced.insert(pairs.begin(), pairs.end());
        at += n;
      }
      return {};
    };
    if (const auto sealed = seal(); !sealed) {
      // Refused also when others have written meanwhile: then on their head.
      COFFER_TRY(const Manifest now, newest(app));
      if (now.revision == head.revision) return std::unexpected(sealed.error());
      continue;
    }
    if (secrets == 0 && !drop_older) return head;
    COFFER_TRY(auto next, vault_.replace_records(app, head, replaced, swept, drop_older, who_));
    if (!next) continue;
    COFFER_CHECK(report(app, seen, next->version()));
    return *std::move(next);
  }
  return fail(ErrorCode::kAborted, "App " + app.name() + " is being written by others all the time",
              "Try again: it goes on where it was.");
}

// Makes what each Machine runs its way back as well, so that nothing older is needed; one that is stopped has
// none.  Nothing is booted: the new launch spec says what runs already.
Result<void> Deployer::move_way_back(const App &app, const Manifest &manifest, std::string_view reason) {
  COFFER_TRY(const std::vector<MachineStatus> all, machines(app));
  std::vector<NewSpec> specs;
  for (const MachineStatus &m : all) {
    const bool runs = m.started() && m.view->state.current;
    const bool newest_runs = runs && m.view->state.current->spec == m.spec.hash;
    if (newest_runs && m.spec.spec.undo == Hash{}) continue;
    if (!runs && m.stored.record.desired != Desired::kStopped) continue;
    COFFER_TRY(MachineConfig config, config_of(app, m));
    specs.push_back({m.stored, std::move(config), runs ? m.view->state.current->spec : Hash{}, true});
  }
  if (specs.empty()) return {};
  COFFER_TRY(const Vault::Made made, vault_.release(app, manifest, specs, {std::string(reason)}, who_));
  return vault_.finish_release(app, made.release.number, ReleaseOutcome::kDone);
}

// Step 5.  Answers the oldest epoch that is still needed.
Result<uint32_t> Deployer::retire_epochs(const App &app, const Manifest &head) {
  COFFER_CHECK(vault_.sweep(app, head));
  COFFER_TRY(const auto old, vault_.old_records(app));
  uint32_t oldest = app.key.epoch;
  for (const auto &[hash, epoch] : old) oldest = std::min(oldest, epoch);
  COFFER_CHECK(keys_.retire(app.id(), oldest));
  return oldest;
}

Result<Rotated> Deployer::rotate(const App &asked, bool now) {
  Rotated out;
  out.from = asked.key.epoch;
  App app = asked;
  {
    COFFER_TRY(const Manifest head, newest(app));
    COFFER_TRY(const auto old, vault_.old_records(app));
    out.went_on = std::ranges::any_of(head.entries, [&](const Entry &e) { return old.contains(e.record); });
  }
  if (!out.went_on) {
    COFFER_TRY(const AppKeys::AppKey key, keys_.rotate(app.id(), app.key.epoch));
    COFFER_TRY(app, vault_.replace_key(app, key.signed_record));
  }
  out.epoch = app.key.epoch;
  COFFER_TRY(Manifest head, seal_head_anew(app, now, out.secrets));
  out.version = head.version();
  out.oldest = out.from;
  if (now) {
    COFFER_TRY(out.rollout, rollout(app, {"keys rotate", true}));
    if (out.rollout.failed) return out;
    COFFER_TRY(head, newest(app));
    if (const auto moved = move_way_back(app, head, "keys rotate: way back"); !moved)
      out.warnings.push_back("the Machines' ways back still need the old key: " + moved.error().message);
    COFFER_TRY(head, newest(app));
  }
  // The rotation is done; whatever hinders this, a later one or a sweep makes up for it.
  const auto oldest = retire_epochs(app, head);
  if (oldest)
    out.oldest = *oldest;
  else
    out.warnings.push_back("the old key is kept for now: " + oldest.error().message);
  return out;
}

}  // namespace coffer
