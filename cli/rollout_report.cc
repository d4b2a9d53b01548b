#include "rollout_report.h"

#include <algorithm>

#include "coffer/base/text.h"

namespace coffer::cli {

void write_machines(JsonWriter &j, const RolloutResult &r) {
  const uint64_t release = r.release ? r.release : r.already;
  if (release)
    j.field("release", release);
  else
    j.key("release").null();
  j.key("machines").begin_array();
  for (const MachineResult &m : r.machines)
    j.begin_object().field("id", m.id).field("name", m.name).field("result", m.result).end_object();
  j.end_array();
}

void print_rollout(const RolloutResult &r) {
  for (const MachineResult &m : r.machines) print("Machine " + m.name + " (" + m.id + "): " + m.result);
  if (r.release && !r.failed)
    print("Release " + std::to_string(r.release) + " is out" +
          (r.joined ? "; another command rolled it out." : "."));
}

Result<int> outcome(const App &app, const RolloutResult &r, std::string_view otherwise) {
  for (const std::string &w : r.warnings) print_warning(w);
  if (!r.failed) return 0;
  for (size_t at = 0; at < r.log.size();) {
    const size_t end = std::min(r.log.find('\n', at), r.log.size());
    print_progress("  | " + printable(std::string_view(r.log).substr(at, end - at), 1024));
    at = end + 1;
  }
  Error e = *r.failed;
  const bool kept =
      std::ranges::all_of(r.machines, [](const MachineResult &m) { return m.result != "failed"; });
  e.code = e.code == ErrorCode::kCancelled ? e.code : ErrorCode::kUnknown;
  e.message = "release " + std::to_string(r.release) + " was not rolled out: " + e.message;
  if (!r.unfinished)
    e.message += kept ? "; the Machines run what they ran before" + std::string(otherwise)
                      : "; not every Machine could be brought back";
  if (r.log_withheld)
    e.remedy = "Its log is not shown, for a value of its secrets may stand in it: `coffer machine logs -a " +
               app.name() + " ID --failed`.";
  return std::unexpected(std::move(e));
}

}  // namespace coffer::cli
