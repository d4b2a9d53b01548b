// What a roll-out did, as a person and a script are told.
#ifndef COFFER_CLI_ROLLOUT_REPORT_H
#define COFFER_CLI_ROLLOUT_REPORT_H

#include "coffer/release/control.h"
#include "output.h"

namespace coffer::cli {

void write_machines(JsonWriter &, const RolloutResult &);  // "release" and "machines" of an object
// Its Machines, warnings and, when it failed, the lines that say why.
void print_rollout(const RolloutResult &);
// The error that a command ends with; nothing: it did not fail.
Result<int> outcome(const App &, const RolloutResult &, std::string_view otherwise);

}  // namespace coffer::cli
#endif
