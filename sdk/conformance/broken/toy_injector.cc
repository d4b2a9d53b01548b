// An injector that is as small as the contract of coffer/injector.h allows, and, with BROKEN set, one that
// breaks it in one place.  The suite must pass the first and fail the others in the test that their name says
// (injector.cmake).  Bindings: a list of names, as in ["ALPHA","BRAVO"]; each becomes a variable.
#include <fcntl.h>
#include <unistd.h>

#include <coffer/injector.hpp>
#include <cstdlib>

#define NONE 0
#define QUOTES_BINDINGS 1
#define DELIVERS_UNANNOUNCED 2
#define FORGETS_ONE 3
#define IGNORES_TAKEN 4
#define IGNORES_VIAS 5
#define CHANGES_VALUES 6
#define KEEPS_VALUES 7
#define LOGS_VALUES 8
#define OPENS_FILES 9
#define READS_ENVIRONMENT 10
#define DOES_NOT_STOP 11
#define COUNTS_CALLS 12
#define MISSING_IS_SKIPPED 13
#ifndef BROKEN
#define BROKEN NONE
#endif

namespace {
using coffer::sdk::Call;
using coffer::sdk::Error;
using coffer::sdk::Options;
using coffer::sdk::to_str;
using coffer::sdk::view;

std::vector<std::string> parse(std::string_view json) {
  std::vector<std::string> names;
  if (json.empty()) return names;
  const Error wrong{COFFER_INVALID_ARGUMENT, BROKEN == QUOTES_BINDINGS
                                                 ? "what is " + std::string(json.substr(0, 99))
                                                 : "bindings must be a list of names"};
  if (json.size() < 2 || json.front() != '[' || json.back() != ']') throw wrong;
  for (json = json.substr(1, json.size() - 2); !json.empty();) {
    const size_t end = json.find('"', 1);
    if (json.front() != '"' || end == json.npos) throw wrong;
    names.emplace_back(json.substr(1, end - 1));
    if (names.back().find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ") != std::string::npos) throw wrong;
    json.remove_prefix(end + 1);
    if (!json.empty() && json.front() != ',') throw wrong;
    if (!json.empty()) json.remove_prefix(1);
  }
  return names;
}

class ToyInjector final : public coffer::sdk::Injector {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &) {
    return std::make_unique<ToyInjector>();
  }

  void plan(const Call &, const coffer_inject_request &request, const Needs &need) override {
    for (const coffer_secret *secret : select(request))
      if (!need(view(secret->name), delivery(*secret)) && BROKEN != DOES_NOT_STOP) return;
  }

  void render(const Call &, const coffer_inject_request &request, const Deliveries &deliver) override {
    std::vector<const coffer_secret *> selected = select(request);
    if (BROKEN == FORGETS_ONE && !selected.empty()) selected.pop_back();
    for (const coffer_secret *secret : selected) {
      coffer_delivery d = delivery(*secret);
      if (BROKEN == KEEPS_VALUES) cache_.emplace_back(view(secret->value));
      if (BROKEN == LOGS_VALUES) coffer::sdk::Host::log(COFFER_LOG_DEBUG, "toy", view(secret->value));
      d.value = secret->value;
      if (BROKEN == CHANGES_VALUES && d.value.size) --d.value.size;
      if (!deliver(d) && BROKEN != DOES_NOT_STOP) return;
      if (BROKEN == DELIVERS_UNANNOUNCED) {
        d.name = to_str("MORE");
        deliver(d);
      }
    }
  }

 private:
  std::vector<const coffer_secret *> select(const coffer_inject_request &request) {
    if (BROKEN == OPENS_FILES) ::close(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (BROKEN == READS_ENVIRONMENT && ::getenv("TOY_PREFIX")) throw Error{COFFER_INTERNAL, "no"};
    std::vector<const coffer_secret *> out;
    for (const std::string &name : parse(view(request.bindings_json))) {
      const coffer_secret *found = nullptr;
      for (size_t i = 0; i < request.n_secrets; ++i)
        if (view(request.secrets[i]->name) == name) found = request.secrets[i];
      if (!found && BROKEN != MISSING_IS_SKIPPED) throw Error{COFFER_NOT_FOUND, "no secret " + name};
      if (found && (BROKEN == IGNORES_TAKEN || !(found->flags & COFFER_SECRET_TAKEN))) out.push_back(found);
    }
    if (BROKEN != IGNORES_VIAS && !out.empty() && !(request.vias & COFFER_VIA_ENV))
      throw Error{COFFER_FAILED_PRECONDITION, "no environment here"};
    if (BROKEN == COUNTS_CALLS && calls_++ % 2 && !out.empty()) out.pop_back();
    return out;
  }

  static coffer_delivery delivery(const coffer_secret &secret) {
    coffer_delivery d{};
    d.struct_size = sizeof d;
    d.via = COFFER_VIA_ENV;
    d.flags = COFFER_DLV_SECRET;
    d.name = secret.name;
    return d;
  }

  int calls_ = 0;
  std::vector<std::string> cache_;
};

constexpr coffer_interface_ref kInterfaces[] = {{COFFER_INJECTOR_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           0,
                                           "coffer.conformance.toy-injector",
                                           "toy-injector",
                                           "1.0.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "A toy for the test of the suite itself",
                                           kInterfaces,
                                           1,
                                           nullptr,
                                           0};
}  // namespace

COFFER_PLUGIN(ToyInjector, kDescriptor);
