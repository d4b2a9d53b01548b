// Roll-outs and releases.
#include "desk.h"
#include "json.h"

namespace coffer::api {

Answer Desk::deploy() {
  COFFER_TRY(const JsonValue root, body({"reason", "force", "detach", "pull", "policy", "configs"}));
  COFFER_TRY(AnyDeploy given, read_deploy(root));
  COFFER_TRY(const App a, app());
  return at_length([this, a, given = std::move(given)] {
    const auto *rollout = std::get_if<RolloutOrder>(&given);
    return answered(rollout ? control_->rollout(a, *rollout)
                            : control_->deploy(a, std::get<DeployOrder>(given)));
  });
}

Answer Desk::end_rollout(bool back) {
  COFFER_TRY(const App a, app());
  return at_length([this, a, back] { return answered(control_->end_rollout(a, back)); });
}
Answer Desk::resume_deploy() { return end_rollout(false); }
Answer Desk::abort_deploy() { return end_rollout(true); }

Answer Desk::list_releases() {
  COFFER_TRY(const App a, app());
  return answered(control_->releases(a));
}

Answer Desk::roll_back_release() {
  COFFER_TRY(const JsonValue root, body({"release", "detach"}));
  COFFER_TRY(const auto given, root.find("release"));
  int64_t release = 0;  // the one before
  if (given) {
    COFFER_TRY(release, given->integer(1));
  }
  COFFER_TRY(const bool hasty, flag(root, "detach"));
  COFFER_TRY(const App a, app());
  return at_length([this, a, release, hasty] {
    return answered(control_->roll_back_release(a, static_cast<uint64_t>(release), hasty));
  });
}

}  // namespace coffer::api
