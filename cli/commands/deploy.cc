// coffer deploy, coffer releases list | rollback
#include <algorithm>

#include "../app_file.h"
#include "../rollout_report.h"
#include "commands.h"

namespace coffer::cli {
namespace {

// `undone`: it went back because that was asked for.
Result<int> report(const Arguments &a, const App &app, RolloutResult r, bool undone = false) {
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("version", r.version);
    write_machines(j, r);
    j.end_object();
    print_json(j);
  } else if (r.release == 0) {
    print("Nothing to deploy: the Machines are as the App config wants them, with the newest secrets.");
  } else {
    print_rollout(r);
    if (undone) print("Release " + std::to_string(r.release) + " was undone.");
  }
  if (undone) r.failed.reset();
  return outcome(app, r, "");
}

Result<DeployOrder> order_of(const Arguments &a, const AppConfig &file) {
  if (!file.release_command.empty())
    return fail(ErrorCode::kInvalidArgument, "[deploy] release_command of the App config is not run",
                "Take it out, and run it before: `coffer run -- CMD`, or `coffer machine run --restart no`.");
  DeployOrder order;
  order.policy = file.deploy;
  order.pull = file.pull || a.pull;
  order.hasty = a.detach;
  std::vector<std::string> processes;
  for (const auto &[name, command] : file.processes) processes.push_back(name);
  if (processes.empty()) processes.push_back("app");
  for (const std::string &process : processes) {
    COFFER_TRY(MachineConfig c, process_config(file, process));
    if (a.image) c.image = *a.image;
    if (c.image.empty())
      return fail(ErrorCode::kInvalidArgument, "no image was given, and the App config has no [build] image",
                  "Add it to the App config, or use --image.");
    c.image_name = c.image;
    c.process = process;
    COFFER_CHECK(check_config(c));
    order.configs.push_back(std::move(c));
  }
  return order;
}

}  // namespace

Result<int> deploy(Arguments &a) {
  if (a.resume && a.abort)
    return fail(ErrorCode::kInvalidArgument, "--resume and --abort cannot both be given",
                "See `coffer deploy --help`.");
  const bool ends = a.resume || a.abort;
  if (ends && a.image) return fail(ErrorCode::kInvalidArgument, "--image is for a new release");
  COFFER_TRY(const auto file, find_app_file(a));
  if (!ends && !file)
    return fail(ErrorCode::kNotFound, "there is no App config: no coffer.toml or fly.toml here",
                "Write one, or name it with -c; single Machines are made with `coffer machine run`.");
  DeployOrder order;
  if (!ends) {
    COFFER_TRY(order, order_of(a, *file));
  }
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  catch_interrupts();
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const RolloutResult r, ends ? control->end_rollout(app, a.abort) : control->deploy(app, order));
  return report(a, app, r, a.abort && r.failed && !r.unfinished);
}

Result<int> releases_list(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const Control::Releases releases, control->releases(app));
  if (a.json) {
    JsonWriter j;
    api::write(j, releases);
    print_json(j);
    return 0;
  }
  if (releases.all.empty()) {
    print("App " + app.name() +
          " has no releases yet: `coffer machine run` or `coffer deploy` makes the first.");
    return 0;
  }
  const auto word = [&](const Release &r) -> std::string {
    if (r.outcome == ReleaseOutcome::kDone) return "done";
    if (r.outcome == ReleaseOutcome::kFailed) return "failed";
    const auto &u = releases.under_way;
    if (!u || u->rollout.release != r.number) return "cut off";
    return !u->alive ? "cut off" : u->rollout.stage == Rollout::Stage::kBack ? "going back" : "running";
  };
  std::vector<std::vector<std::string>> table = {
      {"RELEASE", "OUTCOME", "SECRETS", "AGE", "BY", "REASON", "IMAGE"}};
  for (const Release &r : releases.all) {
    std::string images;
    for (const MachineConfig &c : r.configs)
      if (images.find(c.image_name) == images.npos) images += (images.empty() ? "" : ", ") + c.image_name;
    table.push_back({std::to_string(r.number), word(r), "v" + std::to_string(r.version), age(r.created_ms),
                     r.who, r.why.empty() ? r.reason : r.reason + ": " + r.why,
                     images.empty() ? "-" : images});
  }
  print_table(table);
  if (releases.under_way && !releases.under_way->alive)
    print_warning(
        "release " + std::to_string(releases.under_way->rollout.release) +
        " was cut off: the next command that changes the App goes on with it, or `coffer deploy --resume` "
        "or `--abort`");
  return 0;
}

Result<int> releases_rollback(Arguments &a) {
  COFFER_TRY(const uint64_t number, number_argument(a, "release", "See `coffer releases list`."));
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  catch_interrupts();
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const RolloutResult r, control->roll_back_release(app, number, a.detach));
  return report(a, app, r);
}

}  // namespace coffer::cli
