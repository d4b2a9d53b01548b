#include "coffer/config/engine_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

namespace coffer {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

class EngineConfigFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "coffer-engine-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { fs::remove_all(dir_); }

  fs::path file() const { return dir_ / "engine.toml"; }
  Result<EngineConfig> read(std::string_view text) {
    std::ofstream(file(), std::ios::binary) << text;
    ::chmod(file().c_str(), 0600);
    return read_engine_config(file());
  }
  // The message without the file's name, and the remedy.
  std::string refusal(std::string_view text) {
    const Result<EngineConfig> r = read(text);
    if (r) return "(accepted)";
    EXPECT_EQ(r.error().code, ErrorCode::kInvalidArgument);
    std::string message = r.error().message;
    const std::string prefix = file().string() + ":";
    EXPECT_TRUE(message.starts_with(prefix)) << message;
    return message.substr(prefix.size()) + " | " + r.error().remedy;
  }
  fs::path dir_;
};

constexpr std::string_view kWhole = R"(
plugin_dir = "plugins"

[storage]
plugin = "storage-sqlite"
path   = "vault.db"
sha256 = "0123"

[kms]
plugin = "kms-local"
path   = "kms"

[runtime]
plugin   = "/opt/runtime.so"
endpoint = "unix:///var/run/docker.sock"
pull     = true
workers  = 4
dns      = ["10.0.0.1", "a\"b\\c\n"]

[[injector]]
plugin = "inject-env"
[[injector]]
plugin = "inject-file"
tmpfs  = "/run/x"

[keys.storage]
plugin = "storage-file"
path   = "keys"

[agent.storage]
plugin = "storage-file"
)";

TEST_F(EngineConfigFile, IsReadWhole) {
  const auto r = read(kWhole);
  ASSERT_TRUE(r) << r.error().message;
  EXPECT_EQ(r->file, file());
  EXPECT_EQ(r->base_dir, dir_);
  EXPECT_EQ(r->storage.section, "[storage]");
  EXPECT_EQ(r->storage.plugin, "storage-sqlite");
  EXPECT_EQ(r->storage.sha256, "0123");
  EXPECT_EQ(r->storage.plugin_dir, dir_ / "plugins");
  EXPECT_EQ(r->storage.base_dir, dir_);
  EXPECT_TRUE(r->storage.state_dir.empty());
  EXPECT_THAT(r->storage.options, ElementsAre(Pair("path", "vault.db")));
  EXPECT_EQ(r->kms.plugin, "kms-local");
  EXPECT_EQ(r->runtime.plugin, "/opt/runtime.so");
  EXPECT_EQ(r->runtime.state_dir, dir_ / "machines");
  EXPECT_THAT(r->runtime.options, ElementsAre(Pair("dns", R"(["10.0.0.1","a\"b\\c\u000a"])"),
                                              Pair("endpoint", "unix:///var/run/docker.sock"),
                                              Pair("pull", "true"), Pair("workers", "4")));
  ASSERT_EQ(r->injectors.size(), 2u);
  EXPECT_EQ(r->injectors[0].plugin, "inject-env");
  EXPECT_EQ(r->injectors[0].section, "[[injector]] 1");
  EXPECT_EQ(r->injectors[1].plugin, "inject-file");
  EXPECT_THAT(r->injectors[1].options, ElementsAre(Pair("tmpfs", "/run/x")));
  EXPECT_EQ(r->keys_storage.plugin, "storage-file");
  EXPECT_THAT(r->keys_storage.options, ElementsAre(Pair("path", "keys")));
}

TEST_F(EngineConfigFile, ABuiltInStorageHasAPlaceByItsRoleAndOthersNone) {
  const auto r = read(
      "storage = {plugin = 'storage-sqlite'}\n[agent.storage]\nplugin = 'storage-file'\n"
      "[keys.storage]\nplugin = '/opt/other.so'");
  ASSERT_TRUE(r) << r.error().message;
  EXPECT_THAT(r->storage.options, ElementsAre(Pair("path", "vault.db")));
  EXPECT_THAT(r->agent_storage.options, ElementsAre(Pair("path", "agent")));
  EXPECT_THAT(r->keys_storage.options, testing::IsEmpty());
}

TEST_F(EngineConfigFile, LeavesDefaultsForWhatItDoesNotSay) {
  const auto r = read("");
  ASSERT_TRUE(r) << r.error().message;
  EXPECT_EQ(r->storage.plugin, "");
  EXPECT_EQ(r->storage.section, "[storage]");
  EXPECT_EQ(r->storage.plugin_dir, COFFER_PLUGIN_DIR);
  EXPECT_EQ(r->keys_storage.plugin, "storage-sqlite");
  EXPECT_THAT(r->keys_storage.options, ElementsAre(Pair("path", "keys.db")));
  EXPECT_EQ(r->agent_storage.section, "[agent.storage]");
  EXPECT_THAT(r->agent_storage.options, ElementsAre(Pair("path", "agent.db")));
  ASSERT_EQ(r->injectors.size(), 2u);
  EXPECT_EQ(r->injectors[0].plugin, "inject-file");
  EXPECT_EQ(r->injectors[1].plugin, "inject-env");
  EXPECT_EQ(r->injectors[1].plugin_dir, COFFER_PLUGIN_DIR);
}

TEST_F(EngineConfigFile, UnknownWordsAreRefusedWithLineAndGuess) {
  EXPECT_EQ(refusal("\n[storge]\nplugin = 'x'"),
            "2: there is no table 'storge' in the engine config | did you mean 'storage'?");
  EXPECT_EQ(refusal("plugin-dir = '/x'"),
            "1: there is no key 'plugin-dir' in the engine config | did you mean 'plugin_dir'?");
  EXPECT_EQ(refusal("[[injectors]]\nplugin = 'x'"),
            "1: there is no table 'injectors' in the engine config | did you mean 'injector'?");
  EXPECT_EQ(refusal("\n\nsomething_else = 1"), "3: there is no key 'something_else' in the engine config | ");
  EXPECT_EQ(refusal("[keys.store]\nplugin = 'x'"),
            "1: there is no table 'keys.store' in the engine config | did you mean 'keys.storage'?");
  EXPECT_EQ(refusal("[agent]\nstorage_plugin = 'x'"),
            "2: there is no key 'agent.storage_plugin' in the engine config | ");
}

TEST_F(EngineConfigFile, ThingsOfTheWrongShapeAreRefused) {
  EXPECT_EQ(refusal("storage = 'x'"), "1: 'storage' must be a table | write [storage]");
  EXPECT_EQ(refusal("[[kms]]\nplugin = 'x'"), "1: 'kms' must be a table | write [kms]");
  EXPECT_EQ(refusal("keys = 1"), "1: 'keys' must be a table | write [keys.storage]");
  EXPECT_EQ(refusal("[agent]\nstorage = 1"), "2: 'storage' must be a table | write [agent.storage]");
  EXPECT_EQ(refusal("[injector]\nplugin = 'x'"),
            "1: 'injector' must be a list of tables | write [[injector]] above each");
  EXPECT_EQ(refusal("injector = ['a']"),
            "1: 'injector' must be a list of tables | write [[injector]] above each");
  EXPECT_EQ(refusal("injector = []"),
            "1: 'injector' must be a list of tables | write [[injector]] above each");
  EXPECT_EQ(refusal("plugin_dir = 1"), "1: 'plugin_dir' must be a path | ");
  EXPECT_EQ(refusal("plugin_dir = ''"), "1: 'plugin_dir' must be a path | ");
  EXPECT_EQ(refusal("[storage]\npath = 'x'"), "1: [storage]: 'plugin' is missing | write plugin = \"NAME\"");
  EXPECT_EQ(refusal("[storage]\nplugin = ''"), "1: [storage]: 'plugin' is missing | write plugin = \"NAME\"");
  EXPECT_EQ(refusal("[storage]\nplugin = 1"), "2: [storage]: 'plugin' must be a string | ");
  EXPECT_EQ(refusal("[storage]\nplugin = 'x'\nsha256 = 1"), "3: [storage]: 'sha256' must be a string | ");
  EXPECT_EQ(refusal("[[injector]]\npath = 'x'"),
            "1: [[injector]] 1: 'plugin' is missing | write plugin = \"NAME\"");
}

TEST_F(EngineConfigFile, ValuesThatAreNoOptionsAreRefusedWithoutBeingRepeated) {
  for (const std::string value :
       {"3.14159", "2020-01-01", "07:32:00", "{a = 'nested'}", "[1, 2]", "[['nested']]", "inf"}) {
    const std::string text = refusal("[storage]\nplugin = 'x'\nkey = " + value);
    EXPECT_THAT(text,
                HasSubstr("3: [storage]: 'key' must be a string, a whole number, true, false or an array"));
    EXPECT_THAT(text, Not(HasSubstr(value)));
    EXPECT_THAT(text, Not(HasSubstr("nested")));
  }
}

TEST_F(EngineConfigFile, WhatIsNotTomlIsRefusedByPlaceAndNeverQuoted) {
  for (const std::string bad : {"[kms]\npassword = hunter2", "[kms]\npassword = \"hunter2", "[kms]\nhunter2",
                                "[kms]\na = 'hunter2'\na = 'hunter2'", "[kms\nhunter2 = 1", "hunter2 = \xff",
                                "[kms]\n[kms]", "= hunter2", "[kms]\na = \"\\q hunter2\""}) {
    const std::string text = refusal(bad);
    EXPECT_THAT(text, testing::ContainsRegex("^[0-9]+:[0-9]+: not valid TOML")) << bad;
    EXPECT_THAT(text, Not(HasSubstr("hunter2")));
  }
  EXPECT_THAT(refusal("a = " + std::string(100'000, '[')), HasSubstr("not valid TOML")) << "depth";
}

TEST_F(EngineConfigFile, WritableByOthersIsRefused) {
  ASSERT_TRUE(read(""));
  for (const mode_t mode : {0620, 0602, 0666}) {
    ::chmod(file().c_str(), mode);
    const auto r = read_engine_config(file());
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ErrorCode::kPermissionDenied);
    EXPECT_EQ(r.error().message, file().string() + " is writable by others and names the code to load");
    EXPECT_EQ(r.error().remedy, "chmod go-w " + file().string());
  }
  ::chmod(file().c_str(), 0644);
  EXPECT_TRUE(read_engine_config(file()));
}

TEST_F(EngineConfigFile, OfAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give files away";
  ASSERT_TRUE(read(""));
  ASSERT_EQ(::chown(file().c_str(), 12345, 0), 0);
  const auto r = read_engine_config(file());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(r.error().message, HasSubstr("belongs to user 12345"));
}

TEST_F(EngineConfigFile, ThatIsNoFileIsRefused) {
  auto r = read_engine_config(file());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(r.error().remedy, "coffer init");
  fs::create_directory(file());
  r = read_engine_config(file());
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message, HasSubstr("is not a regular file"));
  fs::remove(file());
  ASSERT_EQ(::mkfifo(file().c_str(), 0600), 0);
  r = read_engine_config(file());
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message, HasSubstr("is not a regular file"));
  fs::remove(file());
  r = read(std::string((1 << 20) + 1, '#'));
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message, HasSubstr("is larger than 1 MiB"));
}

TEST_F(EngineConfigFile, GivenByARelativePathHasAbsoluteFolders) {
  ASSERT_TRUE(read(kWhole));
  const fs::path before = fs::current_path();
  fs::current_path(dir_);
  const auto r = read_engine_config("./engine.toml");
  fs::current_path(before);
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->base_dir.is_absolute());
  EXPECT_EQ(r->base_dir.filename(), dir_.filename());
}

TEST_F(EngineConfigFile, NamesWhereTheDaemonsAre) {
  const auto r = read(R"(
[keys]
socket = "/run/keys.sock"
api    = ["coffer-api", "1001"]
[api]
url    = "https://coffer.example"
token  = "user.token"
socket = "/run/api.sock"
listen = "127.0.0.1:4280"
accept_plaintext = true
[agent]
api = ["unix:///run/api.sock"]
ca  = "ca.pem"
)");
  ASSERT_TRUE(r) << r.error().message;
  EXPECT_EQ(r->keys_socket, "/run/keys.sock");
  EXPECT_THAT(r->keys_api, ElementsAre("coffer-api", "1001"));
  EXPECT_EQ(r->api.url, "https://coffer.example");
  EXPECT_EQ(r->api.token_file, r->base_dir / "user.token");
  EXPECT_EQ(r->api.socket, "/run/api.sock");
  EXPECT_EQ(r->api.listen, "127.0.0.1:4280");
  EXPECT_TRUE(r->api.accept_plaintext);
  EXPECT_THAT(r->agent_apis, ElementsAre("unix:///run/api.sock"));
  EXPECT_EQ(r->agent_ca, r->base_dir / "ca.pem");
}

TEST_F(EngineConfigFile, RefusesWhatIsWrongAboutTheDaemons) {
  EXPECT_EQ(refusal("[api]\nurl = 1"), "2: 'api.url' must be a URL | ");
  EXPECT_EQ(refusal("[api]\nsocket = ''"), "2: 'api.socket' must be a path | ");
  EXPECT_EQ(refusal("[api]\naccept_plaintext = 1"), "2: 'api.accept_plaintext' must be true or false | ");
  EXPECT_EQ(refusal("[api]\ntokens = 'x'"),
            "2: there is no key 'api.tokens' in the engine config | did you mean 'api.token'?");
  EXPECT_EQ(refusal("api = 1"), "1: 'api' must be a table | write [api]");
  EXPECT_EQ(refusal("[agent]\napi = 'x'"),
            "2: 'agent.api' must be a list of URLs | write api = [\"unix:///run/coffer-api/api.sock\"]");
  EXPECT_EQ(refusal("[keys]\nagents = [1]"),
            "2: 'keys.agents' must hold names of users, or their numbers in quotes | ");
}

}  // namespace
}  // namespace coffer
