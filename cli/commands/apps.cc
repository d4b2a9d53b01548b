// coffer apps create | list | destroy
#include "../files.h"
#include "../output.h"
#include "coffer/base/names.h"
#include "commands.h"

namespace coffer::cli {

Result<int> apps_create(Arguments &a) {
  const std::string &name = a.words.front();
  COFFER_CHECK(check_app_name(name));
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const App app, control->create_app(name));
  COFFER_CHECK(engine->home().check_seen(app));
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("name", app.name()).field("id", hex(app.id())).end_object();
    print_json(j);
  } else {
    print("App " + name + " created");
  }
  return 0;
}

Result<int> apps_list(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const std::vector<AppSummary> all, control->apps());
  JsonWriter j;
  std::vector<std::vector<std::string>> table = {{"NAME", "STATUS", "MACHINES", "CREATED"}};
  j.begin_array();
  for (const AppSummary &app : all) {
    table.push_back({app.name, app.status, std::to_string(app.machines), age(app.created_ms)});
    j.begin_object()
        .field("name", app.name)
        .field("id", hex(app.id))
        .field("status", app.status)
        .field("machines", app.machines)
        .field("created_at", rfc3339(app.created_ms))
        .end_object();
  }
  j.end_array();
  if (a.json)
    print_json(j);
  else if (all.empty())
    print("No Apps yet. Create one with `coffer apps create NAME`.");
  else
    print_table(table);
  return 0;
}

Result<int> apps_destroy(Arguments &a) {
  const std::string &name = a.words.front();
  COFFER_CHECK(check_app_name(name));
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app(name));
  if (!a.yes && !confirm("Destroy App " + name + ", its secrets and its Machines? This cannot be undone."))
    return fail(ErrorCode::kCancelled, "App " + name + " was not destroyed",
                "Add -y to do it without being asked.");
  catch_interrupts();
  COFFER_TRY(Control * control, engine->control());
  COFFER_CHECK(control->destroy_app(app));
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("name", name).field("destroyed", true).end_object();
    print_json(j);
  } else {
    print("App " + name + " destroyed");
  }
  return 0;
}

}  // namespace coffer::cli
