#include "app_file.h"

#include <gmock/gmock.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace coffer::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Optional;
using testing::Pair;

class ProcessConfig : public testing::Test {
 protected:
  ProcessConfig() {
    std::string pattern = (std::filesystem::temp_directory_path() / "coffer-app-file-XXXXXX").string();
    if (::mkdtemp(pattern.data())) folder_ = pattern;
  }
  ~ProcessConfig() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  AppConfig parse(std::string_view text) const {
    auto config = parse_app_config(text, folder_ / "coffer.toml");
    EXPECT_TRUE(config.has_value()) << (config ? "" : config.error().message);
    return config ? *std::move(config) : AppConfig();
  }
  static MachineConfig of(const AppConfig &file, const std::string &process) {
    auto config = process_config(file, process);
    EXPECT_TRUE(config.has_value()) << (config ? "" : config.error().message);
    return config ? *std::move(config) : MachineConfig();
  }
  std::filesystem::path folder_;
};

constexpr const char *kFull = R"(
app = "web"
kill_signal = "SIGINT"
kill_timeout = 5
[build]
image = "host"
[env]
B = "2"
A = 1
[processes]
web = {command = "serve --all", secrets = ["KEY", {name = "TOKEN", env_var = "T"}]}
worker = "work"
[[files]]
guest_path = "/run/app/key"
secret_name = "TLS"
env = true
processes = ["web"]
[[files]]
guest_path = "/etc/motd"
local_path = "motd"
[[files]]
guest_path = "/etc/raw"
raw_value = "raw"
processes = ["worker"]
[[mounts]]
source = "data"
destination = "/data"
processes = ["worker"]
[[restart]]
policy = "always"
processes = ["web"]
[[vm]]
memory = "64mb"
processes = ["worker"]
[checks.alive]
type = "tcp"
port = 8080
[[services]]
internal_port = 8080
processes = ["web"]
[[services.ports]]
port = 80
[[services.http_checks]]
path = "/up"
)";

TEST_F(ProcessConfig, EachProcessGetsWhatIsSaidOfItAndOfAll) {
  std::ofstream(folder_ / "motd") << "hello";
  const AppConfig file = parse(kFull);

  const MachineConfig web = of(file, "web");
  EXPECT_EQ(web.name, "");
  EXPECT_EQ(web.process, "web");
  EXPECT_EQ(web.image, "host");
  EXPECT_EQ(web.image_name, "host");
  EXPECT_THAT(web.argv, ElementsAre("serve", "--all"));
  EXPECT_THAT(web.env, ElementsAre(Pair("A", "1"), Pair("B", "2")));
  EXPECT_THAT(web.secrets, Optional(ElementsAre(SecretVariable{"KEY", "KEY"}, SecretVariable{"TOKEN", "T"})));
  ASSERT_EQ(web.files.size(), 2u);
  EXPECT_EQ(web.files[0].secret, "TLS");
  EXPECT_EQ(web.files[0].encoding, FileEncoding::kBase64);
  EXPECT_TRUE(web.files[0].env);
  EXPECT_EQ(web.files[1].literal, "hello");
  EXPECT_EQ(web.files[1].mode, 0444u);
  EXPECT_THAT(web.mounts, IsEmpty());
  EXPECT_EQ(web.restart, RestartPolicy::kAlways);
  EXPECT_EQ(web.memory_bytes, 0u);
  EXPECT_EQ(web.stop_signal, "SIGINT");
  EXPECT_EQ(web.stop_timeout_ms, 5'000u);
  EXPECT_THAT(web.ports, ElementsAre(Port{"", 80, 8080, false}));
  ASSERT_EQ(web.checks.size(), 2u);
  EXPECT_EQ(web.checks[0].name, "alive");
  EXPECT_EQ(web.checks[1].name, "services.1.http.1");

  const MachineConfig worker = of(file, "worker");
  EXPECT_THAT(worker.argv, ElementsAre("work"));
  EXPECT_EQ(worker.secrets, std::nullopt);
  ASSERT_EQ(worker.files.size(), 2u);
  EXPECT_EQ(worker.files[1].literal, "raw");
  EXPECT_THAT(worker.mounts, ElementsAre(Mount{"data", "/data", false}));
  EXPECT_EQ(worker.restart, RestartPolicy::kOnFailure);
  EXPECT_EQ(worker.memory_bytes, 64u << 20);
  EXPECT_THAT(worker.ports, IsEmpty());
  EXPECT_EQ(worker.checks.size(), 1u);

  const MachineConfig none = of(file, "");
  EXPECT_EQ(none.process, "");
  EXPECT_THAT(none.argv, IsEmpty());
  EXPECT_EQ(none.secrets, std::nullopt);
  EXPECT_EQ(none.files.size(), 1u);
  EXPECT_THAT(none.ports, IsEmpty());
  EXPECT_EQ(none.checks.size(), 1u);
}

TEST_F(ProcessConfig, WithoutProcessesThereIsApp) {
  const AppConfig file =
      parse("[[mounts]]\nsource = \"data\"\ndestination = \"/data\"\nprocesses = [\"app\"]");
  for (const char *process : {"", "app"}) {
    EXPECT_EQ(of(file, process).mounts.size(), 1u);
    EXPECT_THAT(of(file, process).argv, IsEmpty());
    EXPECT_EQ(of(file, process).process, process);
  }
  EXPECT_EQ(process_config(file, "web").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(process_config(parse("[processes]\nweb = \"\""), "app").error().code, ErrorCode::kNotFound);
}

TEST_F(ProcessConfig, WhatDoesNotGoTogetherIsRefused) {
  const auto refusal = [&](std::string_view text) {
    const auto config = process_config(parse(text), "");
    return config ? "nothing" : config.error().message;
  };
  EXPECT_THAT(refusal("[[services]]\ninternal_port = 1\nports = [{port = 80}]\n"
                      "[[services]]\ninternal_port = 2\nports = [{port = 80}]"),
              HasSubstr("port 80 of the host is given twice"));
  EXPECT_THAT(refusal("[[mounts]]\nsource = \"data\"\ndestination = \"/a\"\n"
                      "[[files]]\nguest_path = \"/a/b\"\nraw_value = \"\""),
              HasSubstr("the mount at /a"));
  EXPECT_THAT(refusal("[env]\nBIG = \"" + std::string(131'072, 'x') + "\""), HasSubstr("variable BIG"));
  EXPECT_THAT(refusal("[[files]]\nguest_path = \"/a\"\nlocal_path = \"none\""), HasSubstr("none"));
}

TEST_F(ProcessConfig, AFileMayBeReplacedInARunningMachine) {
  const AppConfig file =
      parse("[[files]]\nguest_path = \"/srv/app/key\"\nsecret_name = \"TLS\"\nreload = \"none\"\n");
  const auto config = process_config(file, "app");
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->files.at(0).reload, "none");
}

}  // namespace
}  // namespace coffer::cli
