#include <algorithm>
#include <map>

#include "coffer/audit/audit_log.h"

namespace coffer {
namespace {

// A checkpoint that another log holds.
struct Seen {
  std::string in;
  uint64_t entry = 0;
  Checkpoint at;
};

// One log, line by line.
struct Scan {
  std::vector<Checkpoint> entries = {{}};  // that are sound, ascending; the first stands for the empty log
  uint64_t unreadable = 0;                 // lines behind the last of them
  std::vector<Seen> seen;

  uint64_t next() const { return entries.back().number + unreadable + 1; }
  const Hash *find(uint64_t number) const {
    const auto at = std::ranges::lower_bound(entries, number, {}, &Checkpoint::number);
    return at != entries.end() && at->number == number ? &at->hash : nullptr;
  }
};

std::string range(uint64_t first, uint64_t last) {
  return first == last ? "is" : "to " + std::to_string(last) + " are";
}

}  // namespace

Result<AuditReport> verify_audit(const std::vector<AuditFile> &files) {
  AuditReport report;
  std::map<std::string, Scan> scans;
  const auto found = [&](const std::string &log, uint64_t entry, std::string problem) {
    report.findings.push_back({log, entry, std::move(problem)});
  };
  const auto look = [&](const AuditFile &f, std::string_view text, bool whole) {
    Scan &s = scans[f.log];
    if (!whole) {
      report.notices.push_back(
          {f.log, s.next(), "is torn: it was never acknowledged, and the next writer cuts it off"});
      return;
    }
    const auto stored = decode_audit_line(text);
    if (!stored || stored->number == UINT64_MAX) {
      found(f.log, s.next(), "was changed");
      ++s.unreadable;
      return;
    }
    const Checkpoint last = s.entries.back();
    const uint64_t next = s.next();
    if (stored->number <= last.number) {
      found(f.log, stored->number,
            "stands where entry " + std::to_string(next) + " was expected: it was moved or repeated");
      return;
    }
    if (stored->number > next)
      found(f.log, next, range(next, stored->number - 1) + " missing");
    else if (stored->number == last.number + 1 && stored->previous != last.hash)
      found(f.log, stored->number, "does not follow the entry before it: one of the two was replaced");
    s.entries.push_back({stored->number, stored->hash});
    s.unreadable = 0;
    const AuditEntry &e = stored->entry;
    if (e.action == "repair")
      report.notices.push_back(
          {f.log, stored->number,
           "says that " + std::to_string(e.count) + " bytes of a torn line were cut off before it"});
    if (e.other) scans[e.other->log].seen.push_back({f.log, stored->number, e.other->at});
  };
  COFFER_CHECK(read_audit(files, look));

  for (const AuditFile &f : files) {
    const Scan &s = scans[f.log];
    AuditReport::Log state{f.log, s.entries.back().number, 0};
    const Seen *farthest = nullptr;
    for (const Seen &seen : s.seen) {
      const auto by = " the " + seen.in + " log saw (its entry " + std::to_string(seen.entry) + ")";
      const Hash *hash = s.find(seen.at.number);
      if (hash && *hash != seen.at.hash)
        found(f.log, seen.at.number, "is not the one that" + by + ": the log was written anew");
      else if (hash)
        state.covered = std::max(state.covered, seen.at.number);
      if (!farthest || seen.at.number > farthest->at.number) farthest = &seen;
    }
    if (farthest && farthest->at.number >= s.next())
      found(f.log, s.next(),
            range(s.next(), farthest->at.number) + " cut off from the end: the " + farthest->in +
                " log saw entry " + std::to_string(farthest->at.number) + " (its entry " +
                std::to_string(farthest->entry) + ")");
    report.logs.push_back(std::move(state));
  }
  return report;
}

}  // namespace coffer
