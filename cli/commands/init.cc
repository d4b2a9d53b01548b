// coffer init: from nothing to a vault, a key service and an enrolled host.  Run again, it finishes what is
// missing and changes nothing else.
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "../output.h"
#include "commands.h"

namespace coffer::cli {
namespace {

// What stands in engine.toml between quotes as it is.
bool plain(const std::string &text) {
  return std::ranges::all_of(text,
                             [](unsigned char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; });
}

// Where the docker client would look too, if that is on this host.
Result<std::string> docker_endpoint() {
  const char *variable = std::getenv("DOCKER_HOST");
  const std::string host = variable ? variable : "";
  if (!host.starts_with("unix://")) return "unix:///var/run/docker.sock";
  if (!plain(host))
    return fail(ErrorCode::kInvalidArgument, "DOCKER_HOST holds a character that engine.toml cannot");
  return host;
}

Result<std::string> engine_text(const Arguments &a) {
  const std::string storage = a.storage.empty() ? "sqlite" : a.storage;
  if (storage != "sqlite" && storage != "file")
    return fail(ErrorCode::kInvalidArgument, "--storage is sqlite or file");
  const std::string runtime = a.runtime.empty() ? "process" : a.runtime;
  if (runtime != "process" && runtime != "docker")
    return fail(ErrorCode::kInvalidArgument, "--runtime is process or docker");
  std::string text =
      "# Which plugin serves which purpose.  Swap a backend by changing one line; a vault that holds secrets "
      "is moved\n"
      "# with `coffer vault migrate --to FILE`.  Options of a plugin: `coffer plugin info NAME`.\n"
      "\n"
      "[storage]\n"
      "plugin = \"storage-" +
      storage + "\"        # or \"storage-" + (storage == "sqlite" ? "file" : "sqlite") +
      "\"\n"
      "\n";
  if (!a.keys_socket.empty()) {
    const std::string socket = std::filesystem::absolute(a.keys_socket).string();
    if (!plain(socket))
      return fail(ErrorCode::kInvalidArgument, "--keys: the path holds a character that engine.toml cannot");
    text += "[keys]\nsocket = \"" + socket + "\"\n";
  } else if (a.agent_url.empty()) {
    text +=
        "[kms]\n"
        "plugin = \"kms-local\"\n"
        "path = \"kms\"\n";
  }
  if (!a.agent_url.empty()) {
    if (!plain(a.agent_url))
      return fail(ErrorCode::kInvalidArgument, "--agent: the URL holds a character that engine.toml cannot");
    text += "[agent]\napi = [\"" + a.agent_url +
            "\"]\nmounts = []                      # folders that Machines may have\n";
  }
  if (!a.kms_passphrase_file.empty()) {
    const std::string path = std::filesystem::absolute(a.kms_passphrase_file).string();
    if (!plain(path))
      return fail(ErrorCode::kInvalidArgument,
                  "--kms-passphrase-file: the path holds a character that engine.toml cannot");
    text += "passphrase = \"file:" + path + "\"\n";
  }
  text +=
      "\n"
      "[runtime]\n"
      "plugin = \"runtime-" +
      runtime + "\"\n";
  if (runtime == "docker") {
    COFFER_TRY(const std::string endpoint, docker_endpoint());
    text += "endpoint = \"" + endpoint + "\"\n";
  }
  text +=
      "\n"
      "[[injector]]\n"
      "plugin = \"inject-file\"           # first: takes the secrets that are files\n"
      "[[injector]]\n"
      "plugin = \"inject-env\"            # takes the rest\n";
  return text;
}

// Of a key service elsewhere: what its administrator said, or what is pinned already.
Result<PublicKey> given_identity(const Arguments &a, const Home &home) {
  if (a.identity.empty()) return home.identity();
  const auto bytes = unhex(a.identity);
  if (!bytes || bytes->size() != 32)
    return fail(ErrorCode::kInvalidArgument, "--identity: expected 64 hex digits",
                "`coffer-keys --init` prints them, on the host of the key service.");
  return to_array<32>(*bytes);
}

// A home from which Coffer is used through an API: it has no key and no store.
Result<int> init_client(const Arguments &a, const Home &home) {
  if (a.identity.empty())
    return fail(ErrorCode::kInvalidArgument, "--api needs --identity",
                "`coffer-keys --init` prints it, on the host of the key service.");
  if (!a.storage.empty() || !a.runtime.empty() || !a.kms_passphrase_file.empty() || !a.keys_socket.empty() ||
      !a.agent_url.empty())
    return fail(ErrorCode::kInvalidArgument, "--api goes with --identity and nothing else");
  if (!plain(a.api_url))
    return fail(ErrorCode::kInvalidArgument, "--api: the URL holds a character that engine.toml cannot");
  if (std::filesystem::exists(home.engine_file()))
    return fail(ErrorCode::kAlreadyExists,
                "Coffer is set up already: " + home.engine_file().string() + " exists", "Edit that file.");
  COFFER_TRY(const PublicKey identity, given_identity(a, home));
  COFFER_CHECK(home.create_client());
  COFFER_CHECK(home.pin(identity));
  COFFER_CHECK(home.write_engine(
      "# Where the API is.  pins/identity: the key service that is trusted to name Apps' keys.\n"
      "[api]\nurl = \"" +
      a.api_url + "\"\n"));
  const std::filesystem::path token = home.dir() / "user.token";
  if (a.json) {
    JsonWriter j;
    j.begin_object()
        .field("home", home.dir().string())
        .field("api", a.api_url)
        .field("created", true)
        .end_object();
    print_json(j);
  } else {
    print("Coffer is set up in " + home.dir().string() + ", for the API at " + a.api_url);
    print("Next: put your token into " + token.string() +
          " (mode 0600), or into COFFER_TOKEN.\nWho administers the API makes one with `coffer token create "
          "NAME`.");
  }
  return 0;
}

}  // namespace

Result<int> init(Arguments &a) {
  const Home home = Home::place(a.engine);
  if (!a.api_url.empty()) return init_client(a, home);
  const bool elsewhere = !a.keys_socket.empty() || !a.agent_url.empty();
  if (elsewhere == a.identity.empty())
    return fail(ErrorCode::kInvalidArgument, "--identity belongs to --keys or --agent, and they to it");
  if (elsewhere && !a.kms_passphrase_file.empty())
    return fail(ErrorCode::kInvalidArgument,
                "--kms-passphrase-file is for a key service of one's own, not for --keys or --agent");
  const bool fresh = !std::filesystem::exists(home.engine_file());
  COFFER_TRY(const std::string text, engine_text(a));
  if (!fresh && (!a.storage.empty() || !a.kms_passphrase_file.empty() || !a.runtime.empty() || elsewhere))
    return fail(ErrorCode::kAlreadyExists,
                "Coffer is set up already: " + home.engine_file().string() + " exists",
                "Edit that file, or run `coffer init` without options to finish setting up.");
  COFFER_CHECK(home.create());
  COFFER_CHECK(home.write_engine(text));
  COFFER_TRY(const EngineConfig config, read_engine_config(home.engine_file()));
  const auto start_keys = [&]() -> Result<PublicKey> {
    if (!config.keys_socket.empty() || !config.agent_apis.empty()) return given_identity(a, home);
    COFFER_TRY(const Kms kms, Kms::open(config.kms));
    COFFER_TRY(const Storage keys_store, Storage::open(config.keys_storage));
    return KeyService::initialize(keys_store, kms);
  };
  auto started = start_keys();
  if (!started) {
    // So that `init` can be run again with other options.
    std::error_code ignored;
    if (fresh) std::filesystem::remove(home.engine_file(), ignored);
    return std::unexpected(std::move(started).error());
  }
  const PublicKey identity = *started;
  COFFER_CHECK(home.pin(identity));
  COFFER_TRY(const Storage vault_store, Storage::open(config.storage));
  COFFER_CHECK(Vault::initialize(vault_store));
  COFFER_CHECK(Storage::open(config.agent_storage));
  if (a.json) {
    JsonWriter j;
    j.begin_object()
        .field("home", home.dir().string())
        .field("storage", config.storage.plugin)
        .field("runtime", config.runtime.plugin)
        .field("created", fresh)
        .end_object();
    print_json(j);
    return 0;
  }
  print((fresh ? "Coffer is set up in " : "Coffer is ready in ") + home.dir().string());
  print("  storage  " + config.storage.plugin);
  print("  keys     " + (!config.keys_socket.empty()  ? config.keys_socket.string()
                         : !config.agent_apis.empty() ? "through " + config.agent_apis.front()
                                                      : config.kms.plugin));
  print("  runtime  " + config.runtime.plugin);
  if (!config.agent_apis.empty()) {
    print("Put what the API's pins/writers says into " + (home.dir() / "pins/writers").string() +
          ".\nNext: coffer host join NAME < TOKEN, with a token from `coffer host enroll NAME`; then "
          "coffer-agent.");
    return 0;
  }
  if (!config.keys_socket.empty())
    print(
        "The key service's administrator adds " + (home.dir() / "pins/writers").string() +
        "\nto its own pins/writers, and runs `coffer host enroll NAME`. Then: coffer host join NAME < TOKEN");
  print("Next: coffer apps create web");
  return 0;
}

}  // namespace coffer::cli
