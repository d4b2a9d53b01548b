// inject-env: secrets as environment variables: all that no earlier injector has taken, under their own names
// unless the bindings say otherwise; README.md has their schema.  Two pure functions over them, no I/O.
#include <Poco/JSON/Object.h>
#include <Poco/JSON/Parser.h>

#include <algorithm>
#include <coffer/injector.hpp>
#include <cstring>
#include <map>
#include <optional>
#include <set>

namespace {

using coffer::sdk::Call;
using coffer::sdk::Error;
using coffer::sdk::Options;
using coffer::sdk::to_str;
using coffer::sdk::view;

constexpr size_t kMaxEntry = 131'071;  // NAME=VALUE: MAX_ARG_STRLEN of Linux without its NUL
constexpr size_t kMaxAll =
    2'097'152 - 128 * 1024;  // of about 2 MiB that execve takes; room for the image's own
constexpr std::string_view kAsFile = "mount it as a file instead ([[files]] or --file)";

struct Bindings {
  std::set<std::string> also;
  std::map<std::string, std::string> rename;  // variable -> secret
  std::optional<std::set<std::string>> only;
};

bool valid_name(std::string_view name) {
  if (name.empty() || name.size() > 255 || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

std::string parse_name(const Poco::Dynamic::Var &v, const std::string &where) {
  if (!v.isString() || !valid_name(v.extract<std::string>()))
    throw Error{COFFER_INVALID_ARGUMENT, where + " is not a secret's name"};
  return v.extract<std::string>();
}

std::set<std::string> parse_names(const Poco::Dynamic::Var &v, const std::string &where) {
  std::set<std::string> names;
  const auto list = v.extract<Poco::JSON::Array::Ptr>();
  for (size_t i = 0; i < list->size(); ++i)
    names.insert(parse_name(list->get(static_cast<unsigned>(i)), where + "[" + std::to_string(i) + "]"));
  return names;
}

// A parse error of the library can quote its input, so none of it is forwarded.
Bindings parse_bindings(std::string_view json) {
  Bindings b;
  if (json.empty()) return b;
  try {
    const Poco::Dynamic::Var root = Poco::JSON::Parser().parse(std::string(json));
    const auto object = root.extract<Poco::JSON::Object::Ptr>();
    for (const auto &[key, v] : *object) {
      if (key == "also") {
        b.also = parse_names(v, "also");
      } else if (key == "only") {
        b.only = parse_names(v, "only");
      } else if (key == "rename") {
        const auto rename = v.extract<Poco::JSON::Object::Ptr>();
        for (const auto &[variable, secret] : *rename) {
          if (!valid_name(variable) || variable.starts_with("COFFER_"))
            throw Error{COFFER_INVALID_ARGUMENT, "rename has a variable whose name is not possible"};
          b.rename[variable] = parse_name(secret, "rename." + variable);
        }
      } else {
        throw Error{COFFER_INVALID_ARGUMENT, "bindings have a key that inject-env does not know"};
      }
    }
  } catch (const Error &) {
    throw;
  } catch (const std::bad_alloc &) {
    throw;
  } catch (const std::exception &) {
    throw Error{COFFER_INVALID_ARGUMENT, "bindings of inject-env are not a JSON object of its schema"};
  }
  return b;
}

// variable -> secret, in the order of the variables.  plan() and render() both ask this, so that they agree.
// plan() sees all names, so there every name of the bindings must exist; render() only has what was asked
// for.
enum class Phase { kPlan, kRender };
std::map<std::string, const coffer_secret *> select(const coffer_inject_request &request, Phase phase) {
  const Bindings b = parse_bindings(view(request.bindings_json));
  std::map<std::string, const coffer_secret *, std::less<>> by_name;
  for (size_t i = 0; i < request.n_secrets; ++i)
    by_name.emplace(view(request.secrets[i]->name), request.secrets[i]);
  const auto wanted = [&](const std::string &name) { return !b.only || b.only->contains(name); };
  const auto require = [&](const std::string &name) {
    if (!by_name.contains(name) && (phase == Phase::kPlan || wanted(name)))
      throw Error{COFFER_NOT_FOUND,
                  "secret " + name +
                      ", wanted as environment variable, does not exist: run coffer secrets set " + name +
                      "=-"};
  };
  for (const std::string &name : b.also) require(name);
  for (const auto &[variable, name] : b.rename) require(name);
  if (b.only && phase == Phase::kPlan)
    for (const std::string &name : *b.only) require(name);

  std::map<std::string, const coffer_secret *> out;
  std::set<std::string_view> renamed;
  for (const auto &[variable, name] : b.rename) {
    renamed.insert(name);
    if (wanted(name)) out.emplace(variable, by_name.at(name));
  }
  for (const auto &[name, secret] : by_name) {
    if (renamed.contains(name) || !wanted(name)) continue;
    if ((secret->flags & COFFER_SECRET_TAKEN) && !b.also.contains(name)) continue;
    if (!out.emplace(name, secret).second)
      throw Error{COFFER_INVALID_ARGUMENT, "environment variable " + name + " is wanted by two secrets: " +
                                               name + " and " + b.rename.at(name)};
  }
  if (!out.empty() && !(request.vias & COFFER_VIA_ENV))
    throw Error{COFFER_FAILED_PRECONDITION, "this runtime cannot hand secrets over as environment variables"};
  return out;
}

coffer_delivery delivery(const std::string &variable) {
  coffer_delivery d{};
  d.struct_size = sizeof d;
  d.via = COFFER_VIA_ENV;
  d.flags = COFFER_DLV_SECRET;
  d.name = to_str(variable);
  return d;
}

class InjectEnv final : public coffer::sdk::Injector {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &) {
    return std::make_unique<InjectEnv>();
  }

  void plan(const Call &, const coffer_inject_request &request, const Needs &need) override {
    for (const auto &[variable, secret] : select(request, Phase::kPlan))
      if (!need(view(secret->name), delivery(variable))) return;
  }

  // All is checked before the first delivery is made.
  void render(const Call &, const coffer_inject_request &request, const Deliveries &deliver) override {
    const auto selected = select(request, Phase::kRender);
    size_t all = 0;
    for (const auto &[variable, secret] : selected) {
      const std::string what = "secret " + std::string(view(secret->name));
      const size_t entry = variable.size() + 1 + secret->value.size;
      if (secret->value.size && std::memchr(secret->value.data, 0, secret->value.size))
        throw Error{
            COFFER_FAILED_PRECONDITION,
            what + " has a NUL byte, which no environment variable can hold: " + std::string(kAsFile)};
      if (entry > kMaxEntry)
        throw Error{COFFER_FAILED_PRECONDITION, what + " makes an environment entry of " +
                                                    std::to_string(entry) + " bytes, the limit is " +
                                                    std::to_string(kMaxEntry) + ": " + std::string(kAsFile)};
      all += entry + 1 + sizeof(char *);
      if (all > kMaxAll)
        throw Error{COFFER_FAILED_PRECONDITION,
                    "the secrets up to " + std::string(view(secret->name)) +
                        " are more than an environment can hold (about 2 MiB): mount "
                        "the largest as files instead ([[files]] or --file)"};
    }
    for (const auto &[variable, secret] : selected) {
      coffer_delivery d = delivery(variable);
      d.value = secret->value;
      if (!deliver(d)) return;
    }
  }
};

constexpr coffer_interface_ref kInterfaces[] = {{COFFER_INJECTOR_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           COFFER_PLUGIN_CONCURRENT,
                                           "coffer.inject-env",
                                           "inject-env",
                                           "0.1.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "Secrets as environment variables",
                                           kInterfaces,
                                           1,
                                           nullptr,
                                           0};
}  // namespace

COFFER_PLUGIN(InjectEnv, kDescriptor);
