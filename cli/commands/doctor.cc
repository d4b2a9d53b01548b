// coffer doctor: everything that a command could stumble over, each with its remedy.
#include "../output.h"
#include "commands.h"

namespace coffer::cli {
namespace {

class Report {
 public:
  void good(std::string what, std::string facts = {}) {
    lines_.push_back({std::move(what), std::move(facts), {}, true});
  }
  void bad(std::string what, const Error &e) {
    lines_.push_back({std::move(what), e.message, e.remedy, false});
  }
  template <class T>
  bool add(std::string what, const Result<T> &r, std::string facts = {}) {
    if (r)
      good(std::move(what), std::move(facts));
    else
      bad(std::move(what), r.error());
    return r.has_value();
  }

  Result<int> finish(bool json) const {
    size_t problems = 0;
    JsonWriter j;
    j.begin_array();
    for (const Line &l : lines_) {
      problems += !l.ok;
      j.begin_object()
          .field("check", l.what)
          .field("ok", l.ok)
          .field("detail", l.detail)
          .field("remedy", l.remedy)
          .end_object();
      if (json) continue;
      print((l.ok ? "ok    " : "FAIL  ") + l.what + (l.detail.empty() ? "" : ": " + l.detail));
      if (!l.remedy.empty()) print("      " + l.remedy);
    }
    j.end_array();
    if (json) print_json(j);
    if (!problems) return 0;
    return fail(ErrorCode::kUnknown,
                std::to_string(problems) + (problems == 1 ? " check" : " checks") + " failed");
  }

 private:
  struct Line {
    std::string what, detail, remedy;
    bool ok;
  };
  std::vector<Line> lines_;
};

template <class Kind>
void probe(Report &report, const PluginConfig &config) {
  const std::string what = config.section + " " + config.plugin;
  const auto opened = Kind::open(config);
  if (!opened) return report.bad(what, opened.error());
  const auto health = opened->instance().probe();
  report.add(what, health, health ? *health : "");
}

}  // namespace

Result<int> doctor(Arguments &a) {
  Report report;
  const auto home = Home::find(a.engine);
  if (!report.add("engine config", home, home ? home->engine_file().string() : ""))
    return report.finish(a.json);
  const auto config = read_engine_config(home->engine_file());
  if (!report.add("engine config is readable", config)) return report.finish(a.json);
  // A home from which an API is asked has nothing else.
  if (const auto engine = Engine::open(a); engine && (*engine)->remote()) {
    report.add("pinned key service", home->identity());
    const auto control = (*engine)->control();
    if (report.add("token", control)) {
      const auto apps = (*control)->apps();
      report.add("API", apps, apps ? std::to_string(apps->size()) + " Apps are shown to the token" : "");
    }
    return report.finish(a.json);
  }
  probe<Storage>(report, config->storage);
  probe<Storage>(report, config->agent_storage);
  if (config->keys_socket.empty()) {
    probe<Storage>(report, config->keys_storage);
    probe<Kms>(report, config->kms);
  }
  probe<Runtime>(report, config->runtime);
  for (const PluginConfig &p : config->injectors) probe<Injector>(report, p);
  report.add("writer key", home->writer_seed());
  report.add("digest credential", home->digest_credential());
  report.add("token root", home->token_root());
  report.add("host key", home->host_seed());
  report.add("pinned keys", home->pins());
  const auto engine = Engine::open(a);
  if (engine) {
    const auto vault = (*engine)->vault();
    if (report.add("vault", vault)) {
      const auto apps = (*vault)->apps();
      report.add("Apps", apps, apps ? std::to_string(apps->size()) : "");
    }
    const auto keys = (*engine)->keys();
    if (config->keys_socket.empty()) {
      report.add("key service", keys ? (*keys)->unlock() : std::unexpected(keys.error()),
                 "the root key unwraps");
    } else {
      const auto known = keys ? (*keys)->list() : std::unexpected(keys.error());
      report.add("key service", known, "answers at " + config->keys_socket.string());
    }
  }
  if (locked_arena_overflowed())
    report.bad("locked memory",
               {ErrorCode::kResourceExhausted, "the limit is too low: secrets may be swapped out",
                "Raise it: `ulimit -l unlimited`, or LimitMEMLOCK= in the unit."});
  else
    report.good("locked memory");
  return report.finish(a.json);
}

}  // namespace coffer::cli
