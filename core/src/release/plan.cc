// What a roll-out would do, and what the versions before have done.
#include <algorithm>

#include "coffer/release/deployer.h"

namespace coffer {
namespace {

// Both lists are sorted by name.
void compare(const Manifest &old, const Manifest &next, std::map<std::string, PlannedChange> &out) {
  for (const Entry &e : next.entries) {
    const Entry *before = old.find(e.name);
    if (!before)
      out.emplace(e.name, PlannedChange::kAdd);
    else if (before->version != e.version)
      out.insert_or_assign(e.name, PlannedChange::kChange);
  }
  for (const Entry &e : old.entries)
    if (!next.find(e.name)) out.emplace(e.name, PlannedChange::kRemove);
}

}  // namespace

std::string_view to_string(PlannedChange c) {
  return c == PlannedChange::kAdd ? "add" : c == PlannedChange::kChange ? "change" : "remove";
}

bool to_be_rolled_out(const MachineStatus &m) {
  // Also one that failed: a new value may be what it needs.  Stopped Machines stay stopped.
  if (m.stored.record.desired != Desired::kStarted) return false;
  return m.started() || m.now() == State::kFailed || (m.view && m.view->cut_off);
}

Result<Plan> Deployer::plan(const App &app) {
  COFFER_TRY(const Manifest head, newest(app));
  COFFER_TRY(const std::vector<MachineStatus> all, machines(app));
  Plan out;
  out.version = head.version();
  std::set<uint64_t> older;
  bool behind = false;
  for (const MachineStatus &m : all) {
    if (!to_be_rolled_out(m)) continue;
    behind = behind || m.version() < head.version() || !m.started();
    out.machines.push_back({m.stored.record.id, m.stored.record.name, m.version()});
    if (m.version() && m.version() != head.version()) older.insert(m.version());
  }
  if (!behind) out.machines.clear();
  for (const uint64_t version : older) {
    COFFER_TRY(const Manifest old, vault_.at(app, version));
    compare(old, head, out.secrets);
  }
  return out;
}

Result<std::vector<VersionView>> Deployer::history(const App &app) {
  COFFER_TRY(const Manifest head, newest(app));
  COFFER_TRY(const std::vector<Manifest> kept, vault_.retained(app, head));
  std::vector<VersionView> out;
  for (size_t i = 0; i < kept.size(); ++i) {
    const Header &h = kept[i].head.header;
    VersionView v{h.version, h.created_ms, h.who, h.restored_from, {}, {}};
    for (const Entry &e : kept[i].entries)
      if (e.version == h.version) v.set.push_back(e.name);
    if (i + 1 < kept.size())
      for (const Entry &e : kept[i + 1].entries)
        if (!kept[i].find(e.name)) v.removed.push_back(e.name);
    out.push_back(std::move(v));
  }
  return out;
}

}  // namespace coffer
