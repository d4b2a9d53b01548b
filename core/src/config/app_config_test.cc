#include "coffer/config/app_config.h"

#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <fstream>

namespace coffer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;

AppConfig parse(std::string_view text) {
  auto config = parse_app_config(text, "/srv/web/fly.toml");
  EXPECT_TRUE(config.has_value()) << (config ? "" : config.error().message);
  return config ? *std::move(config) : AppConfig();
}

std::string error(std::string_view text) {
  const auto config = parse_app_config(text, "/srv/web/fly.toml");
  EXPECT_FALSE(config.has_value()) << text << " was accepted";
  if (config) return "";
  EXPECT_EQ(config.error().code, ErrorCode::kInvalidArgument);
  return config.error().message;
}

TEST(AppConfig, AFullConfigIsRead) {
  const AppConfig c = parse(R"(
app = "web"
[build]
image = "ghcr.io/example/web:1"
pull = true
[env]
PORT = "8080"
WORKERS = 4
DEBUG = false
EMPTY = ""
[processes]
web = "bin/serve --title 'hello world'"
worker = ""
[[files]]
guest_path = "/run/secrets/tls.key"
secret_name = "TLS_KEY"
processes = ["web"]
env = true
[[files]]
guest_path = "/etc/app/motd"
raw_value = "line 1\nline 2"
mode = "0640"
[[files]]
guest_path = "/etc/app/app.ini"
local_path = "conf/app.ini"
mode = 0o600
)");
  EXPECT_EQ(c.app, "web");
  EXPECT_EQ(c.image, "ghcr.io/example/web:1");
  EXPECT_TRUE(c.pull);
  EXPECT_THAT(c.env, ElementsAre(Pair("DEBUG", "false"), Pair("EMPTY", ""), Pair("PORT", "8080"),
                                 Pair("WORKERS", "4")));
  EXPECT_THAT(c.processes, ElementsAre(Pair("web", ElementsAre("bin/serve", "--title", "hello world")),
                                       Pair("worker", IsEmpty())));
  ASSERT_EQ(c.files.size(), 3u);
  EXPECT_EQ(c.files[0].guest_path, "/run/secrets/tls.key");
  EXPECT_EQ(c.files[0].secret_name, "TLS_KEY");
  EXPECT_EQ(c.files[0].mode, 0400u);
  EXPECT_TRUE(c.files[0].env);
  EXPECT_THAT(c.files[0].processes, ElementsAre("web"));
  EXPECT_EQ(c.files[1].raw_value, "line 1\nline 2");
  EXPECT_EQ(c.files[1].mode, 0640u);
  EXPECT_EQ(c.files[2].local_path, "/srv/web/conf/app.ini");
  EXPECT_EQ(c.files[2].mode, 0600u);
  EXPECT_EQ(c.warning, "");
}

TEST(AppConfig, AnEmptyFileIsAnEmptyConfig) {
  const AppConfig c = parse("");
  EXPECT_EQ(c.app, "");
  EXPECT_THAT(c.files, IsEmpty());
  EXPECT_EQ(c.warning, "");
}

TEST(AppConfig, WhatAMachineIsGivenIsRead) {
  const AppConfig c = parse(R"(
app = "web"
kill_signal = "SIGINT"
kill_timeout = "2m"
[[vm]]
memory = "1gb"
processes = ["web"]
[[vm]]
memory = 256
processes = ["worker"]
[[restart]]
policy = "always"
[[restart]]
policy = "never"
processes = ["worker"]
[[mounts]]
source = "data"
destination = "/var/lib/data"
processes = ["web"]
[[mounts]]
source = "/srv/pages"
destination = "/pages"
[processes]
web = "serve"
worker = "work"
)");
  EXPECT_EQ(c.warning, "");
  EXPECT_EQ(c.stop_signal, "SIGINT");
  EXPECT_EQ(c.stop_timeout_ms, 120'000u);
  ASSERT_EQ(c.memory.size(), 2u);
  EXPECT_EQ(c.memory[0].what, 1u << 30);
  EXPECT_THAT(c.memory[0].processes, ElementsAre("web"));
  EXPECT_EQ(c.memory[1].what, 256u << 20);
  ASSERT_EQ(c.restart.size(), 2u);
  EXPECT_EQ(c.restart[0].what, RestartPolicy::kAlways);
  EXPECT_THAT(c.restart[0].processes, IsEmpty());
  EXPECT_EQ(c.restart[1].what, RestartPolicy::kNo);
  EXPECT_THAT(c.restart[1].processes, ElementsAre("worker"));
  ASSERT_EQ(c.mounts.size(), 2u);
  EXPECT_EQ(c.mounts[0].what, (Mount{"data", "/var/lib/data", false}));
  EXPECT_THAT(c.mounts[0].processes, ElementsAre("web"));
  EXPECT_EQ(c.mounts[1].what, (Mount{"/srv/pages", "/pages", false}));
}

TEST(AppConfig, ASingleTableIsAListOfOne) {
  const AppConfig c = parse(R"(
kill_timeout = 30
[mounts]
source = "data"
destination = "/data"
[restart]
policy = "on-failure"
[vm]
memory_mb = 512
)");
  EXPECT_EQ(c.stop_timeout_ms, 30'000u);
  EXPECT_EQ(c.mounts.size(), 1u);
  ASSERT_EQ(c.restart.size(), 1u);
  EXPECT_EQ(c.restart[0].what, RestartPolicy::kOnFailure);
  ASSERT_EQ(c.memory.size(), 1u);
  EXPECT_EQ(c.memory[0].what, 512u << 20);
}

TEST(AppConfig, TheRolloutIsRead) {
  const AppConfig none = parse("app = \"web\"");
  EXPECT_FALSE(none.deploy.strategy || none.deploy.max_unavailable || none.deploy.smoke_ms ||
               none.deploy.patience_ms);
  const AppConfig c = parse(R"(
[deploy]
strategy = "immediate"
max_unavailable = 0.25
wait_timeout = "5m"
smoke_time = 0
release_command = "bin/migrate"
)");
  EXPECT_EQ(c.deploy.strategy, Strategy::kImmediate);
  EXPECT_EQ(c.deploy.max_unavailable, 250u);
  EXPECT_EQ(c.deploy.patience_ms, 300'000u);
  EXPECT_EQ(c.deploy.smoke_ms, 0u);
  EXPECT_EQ(c.release_command, "bin/migrate");
  EXPECT_EQ(c.warning, "");
  const std::vector<std::pair<std::string, uint32_t>> unavailable = {
      {"0.33", 330}, {"1.0", 1000}, {"0.0001", 1}, {"1", 1001}, {"7", 1007}};
  for (const auto &[text, stored] : unavailable)
    EXPECT_EQ(parse("[deploy]\nmax_unavailable = " + text).deploy.max_unavailable, stored) << text;
  EXPECT_EQ(parse("[deploy]\nsmoke_time = \"600s\"").deploy.smoke_ms, 600'000u);
  EXPECT_EQ(parse("[deploy]\nwait_timeout = 90").deploy.patience_ms, 90'000u);
}

TEST(AppConfig, OtherStrategiesOfFlyAreRolling) {
  for (const char *strategy : {"canary", "bluegreen"}) {
    const AppConfig c = parse("[deploy]\nstrategy = \"" + std::string(strategy) + "\"\nseed = 1");
    EXPECT_EQ(c.deploy.strategy, Strategy::kRolling);
    EXPECT_THAT(c.warning, HasSubstr(std::string("'deploy.strategy' ") + strategy + " is done as rolling"));
    EXPECT_THAT(c.warning, HasSubstr("deploy.seed"));
  }
}

TEST(AppConfig, ChecksAreRead) {
  const AppConfig c = parse(R"(
[checks.alive]
type = "tcp"
port = 8080
grace_period = "10s"
interval = "1m30s"
timeout = "500ms"
[checks.home]
type = "http"
port = 8081
method = "head"
path = "/up"
processes = ["web"]
headers = {Host = "Zebrafish"}
[checks.own]
type = "command"
command = "bin/check 'a b'"
[checks.short]
type = "http"
port = 1
[processes]
web = "serve"
)");
  ASSERT_EQ(c.checks.size(), 4u);
  EXPECT_EQ(c.checks[0].what, (Check{"alive", Check::Kind::kTcp, 8080, "GET", "", {}, 10'000, 90'000, 500}));
  EXPECT_THAT(c.checks[0].processes, IsEmpty());
  EXPECT_EQ(c.checks[1].what, (Check{"home", Check::Kind::kHttp, 8081, "HEAD", "/up"}));
  EXPECT_THAT(c.checks[1].processes, ElementsAre("web"));
  EXPECT_EQ(c.checks[2].what, (Check{"own", Check::Kind::kCommand, 0, "GET", "", {"bin/check", "a b"}}));
  EXPECT_EQ(c.checks[3].what, (Check{"short", Check::Kind::kHttp, 1, "GET", "/"}));
  EXPECT_EQ(c.warning, "/srv/web/fly.toml: these keys are not known and were ignored: checks.home.headers");
}

TEST(AppConfig, ServicesPublishPortsAndHaveChecks) {
  const AppConfig c = parse(R"(
[http_service]
internal_port = 8080
force_https = true
[[http_service.checks]]
path = "/up"
interval = "15s"
[[services]]
internal_port = 5432
processes = ["db"]
[[services.ports]]
port = 15432
handlers = ["tls"]
[[services.ports]]
port = 15433
handlers = ["tls"]
[[services.tcp_checks]]
timeout = "2s"
[[services]]
internal_port = 53
protocol = "udp"
[[services.ports]]
port = 53
[[services.http_checks]]
[processes]
db = ""
)");
  ASSERT_EQ(c.ports.size(), 3u);
  EXPECT_EQ(c.ports[0].what, (Port{"", 15432, 5432, false}));
  EXPECT_THAT(c.ports[0].processes, ElementsAre("db"));
  EXPECT_EQ(c.ports[1].what, (Port{"", 15433, 5432, false}));
  EXPECT_EQ(c.ports[2].what, (Port{"", 53, 53, true}));
  EXPECT_THAT(c.ports[2].processes, IsEmpty());
  ASSERT_EQ(c.checks.size(), 3u);
  EXPECT_EQ(c.checks[0].what, (Check{"services.1.tcp.1", Check::Kind::kTcp, 5432}));
  EXPECT_THAT(c.checks[0].processes, ElementsAre("db"));
  EXPECT_EQ(c.checks[1].what, (Check{"services.2.http.1", Check::Kind::kHttp, 53, "GET", "/"}));
  EXPECT_EQ(c.checks[2].what,
            (Check{"http_service.1", Check::Kind::kHttp, 8080, "GET", "/up", {}, 0, 15'000}));
  EXPECT_EQ(c.warning,
            "/srv/web/fly.toml: these keys are not known and were ignored: "
            "services.ports.handlers, http_service.force_https");
}

TEST(AppConfig, AProcessChoosesItsSecrets) {
  const AppConfig c = parse(R"(
[processes]
all = {command = "serve --all"}
none = {secrets = []}
some = {command = "serve", secrets = ["DATABASE_URL", {name = "QUEUE_KEY", env_var = "KEY"}, {name = "QUEUE_KEY"}]}
plain = "serve"
)");
  EXPECT_THAT(c.processes,
              ElementsAre(Pair("all", ElementsAre("serve", "--all")), Pair("none", IsEmpty()),
                          Pair("plain", ElementsAre("serve")), Pair("some", ElementsAre("serve"))));
  EXPECT_THAT(c.process_secrets,
              ElementsAre(Pair("none", IsEmpty()),
                          Pair("some", ElementsAre(SecretVariable{"DATABASE_URL", "DATABASE_URL"},
                                                   SecretVariable{"QUEUE_KEY", "KEY"},
                                                   SecretVariable{"QUEUE_KEY", "QUEUE_KEY"}))));
}

TEST(AppConfig, AFileCanBeReplacedInARunningMachine) {
  const AppConfig c = parse(R"(
[[files]]
guest_path = "/run/app/tls.key"
secret_name = "KEY"
reload = "signal:hup"
[[files]]
guest_path = "/run/app/tls.crt"
secret_name = "CERTIFICATE"
reload = "none"
[[files]]
guest_path = "/run/token"
secret_name = "TOKEN"
reload = "restart"
)");
  ASSERT_EQ(c.files.size(), 3u);
  EXPECT_EQ(c.files[0].reload, "signal:SIGHUP");
  EXPECT_EQ(c.files[1].reload, "none");
  EXPECT_EQ(c.files[2].reload, "");
}

TEST(AppConfig, UnknownKeysMakeOneWarningThatNamesThemAndNoValue) {
  const AppConfig c = parse(R"(
app = "web"
primary_region = "Zebrafish"
[build]
dockerfile = "Zebrafish"
[metrics]
port = 1
[[vm]]
memory = "1gb"
cpu_kind = "Zebrafish"
[[mounts]]
source = "data"
destination = "/data"
initial_size = "Zebrafish"
[[restart]]
policy = "always"
retries = 7
[[files]]
guest_path = "/a"
raw_value = ""
owner = "Zebrafish"
)");
  EXPECT_EQ(c.app, "web");
  EXPECT_EQ(c.files.size(), 1u);
  for (const char *key : {"/srv/web/fly.toml", "primary_region", "build.dockerfile", "metrics", "files.owner",
                          "vm.cpu_kind", "mounts.initial_size", "restart.retries"})
    EXPECT_THAT(c.warning, HasSubstr(key));
  EXPECT_THAT(c.warning, Not(HasSubstr("Zebrafish")));
  EXPECT_THAT(c.warning, Not(HasSubstr("\n")));
}

TEST(AppConfig, ErrorsNameFileLineAndKeyAndNoValue) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"app = \"web\"\nkey = Zebrafish\n", ":2: this is not TOML"},
      {"app = \"web\"\napp = \"Zebrafish\"\n", ":2: this is not TOML"},
      {"x = \"Zebrafish", ":1: this is not TOML"},
      {"app = 7", ":1: 'app' must be a string"},
      {"\napp = \"Zebrafish/../etc\"", ":2: 'app': an App's name"},
      {"app = \"\"", ":1: 'app': an App's name"},
      {"env = \"Zebrafish\"", ":1: 'env' must be a table"},
      {"[env]\nA = 1\nB = [\"Zebrafish\"]", ":3: 'env.B' must be a string"},
      {"[env]\nB = 1.5", ":2: 'env.B' must be a string"},
      {"[env]\nB = \"Zebrafish\\u0000\"", ":2: 'env.B' must not have a NUL"},
      {"[env]\n\"A=Zebrafish\" = \"1\"", ":2: 'env' has a variable"},
      {"[env]\n\"\" = \"1\"", ":2: 'env' has a variable"},
      {"[build]\nimage = 1", ":2: 'build.image' must be a string"},
      {"[build]\npull = \"Zebrafish\"", ":2: 'build.pull' must be true or false"},
      {"kill_signal = 9", ":1: 'kill_signal' must be a string"},
      {"kill_signal = \"Zebra fish\"", ":1: 'kill_signal': expected a signal"},
      {"kill_timeout = -5", ":1: 'kill_timeout': expected a number of seconds"},
      {"kill_timeout = \"Zebrafish\"", ":1: 'kill_timeout': expected a number of seconds"},
      {"kill_timeout = 1.5", ":1: 'kill_timeout' must be a string"},
      {"mounts = \"Zebrafish\"", ":1: 'mounts' must be written as [[mounts]]"},
      {"mounts = []", ":1: 'mounts' must be written as [[mounts]]"},
      {"mounts = [\"Zebrafish\"]", ":1: 'mounts' must be written as [[mounts]]"},
      {"[[mounts]]\nsource = \"Zebrafish\"", ":1: [[mounts]] must have 'source' and 'destination'"},
      {"[[mounts]]\nsource = \"../Zebra\"\ndestination = \"/a\"", "[[mounts]]: the source is"},
      {"[[mounts]]\nsource = \"data\"\ndestination = \"Zebrafish\"",
       "[[mounts]]: a path in a Machine must be"},
      {"[[mounts]]\nsource = \"data\"\ndestination = \"/a\"\nprocesses = [\"Zebrafish\"]",
       ":4: 'mounts.processes' names a process"},
      {"[[restart]]\npolicy = \"Zebrafish\"", ":2: 'restart.policy': expected no, on-failure or always"},
      {"[[restart]]\npolicy = 1", ":2: 'restart.policy' must be a string"},
      {"[[vm]]\nmemory = \"Zebrafish\"", ":2: 'vm.memory': expected a number of bytes"},
      {"[[vm]]\nmemory = \"5mb\"", ":2: 'vm.memory': memory is at least 6 MiB"},
      {"[[vm]]\nmemory = -256", ":2: 'vm.memory': expected a number of bytes"},
      {"[processes]\nweb = [\"Zebrafish\"]", ":2: 'processes.web' must be a string"},
      {"[processes.web]\ncommand = 1", ":2: 'processes.web.command' must be a string"},
      {"[processes.web]\nsecrets = \"Zebrafish\"", ":2: 'processes.web.secrets' must be a list"},
      {"[processes.web]\nsecrets = [\"Zebra fish\"]", ":2: 'processes.web.secrets': a secret's name"},
      {"[processes.web]\nsecrets = [1]", ":2: 'processes.web.secrets' must be a string"},
      {"[processes.web]\nsecrets = [\n\"A\",\n{name = \"B\", env_var = \"A\"}]",
       ":4: 'processes.web.secrets': variable A is given twice"},
      {"[processes.web]\nsecrets = [{env_var = \"Zebrafish\"}]", "has an entry without 'name'"},
      {"[processes.web]\nsecrets = [{name = \"A\", env_var = \"COFFER_A\"}]",
       ":2: 'processes.web.secrets': a variable has a name"},
      {"deploy = \"Zebrafish\"", ":1: 'deploy' must be a table"},
      {"[deploy]\nstrategy = \"Zebrafish\"", ":2: 'deploy.strategy': expected rolling or immediate"},
      {"[deploy]\nmax_unavailable = 0", ":2: 'deploy.max_unavailable' must be a share"},
      {"[deploy]\nmax_unavailable = -1", ":2: 'deploy.max_unavailable' must be a share"},
      {"[deploy]\nmax_unavailable = 1.5", ":2: 'deploy.max_unavailable' must be a share"},
      {"[deploy]\nmax_unavailable = nan", ":2: 'deploy.max_unavailable' must be a share"},
      {"[deploy]\nmax_unavailable = \"Zebrafish\"", ":2: 'deploy.max_unavailable' must be a share"},
      {"[deploy]\nwait_timeout = \"Zebrafish\"", ":2: 'deploy.wait_timeout': expected a time"},
      {"[deploy]\nwait_timeout = 0", ":2: 'deploy.wait_timeout' is more than 0"},
      {"[deploy]\nsmoke_time = \"11m\"", ":2: 'deploy.smoke_time' is at most 10 minutes"},
      {"[deploy]\nrelease_command = 1", ":2: 'deploy.release_command' must be a string"},
      {"checks = \"Zebrafish\"", ":1: 'checks' must be a table"},
      {"[checks]\na = \"Zebrafish\"", ":2: 'checks.a' must be a table"},
      {"[checks.\"a/b\"]\ntype = \"tcp\"", ":1: a check has a name"},
      {"[checks.a]\nport = 1", ":1: 'checks.a' must have 'type'"},
      {"[checks.a]\ntype = \"Zebrafish\"", ":2: 'checks.a.type': expected tcp, http or command"},
      {"[checks.a]\ntype = \"tcp\"", ":1: 'checks.a': a check has a port"},
      {"[checks.a]\ntype = \"tcp\"\nport = 65536", ":3: 'checks.a.port' must be a port"},
      {"[checks.a]\ntype = \"tcp\"\nport = 1\ninterval = 10", ":4: 'checks.a.interval' must have its unit"},
      {"[checks.a]\ntype = \"tcp\"\nport = 1\ninterval = \"0s\"", ":1: 'checks.a': interval and timeout"},
      {"[checks.a]\ntype = \"http\"\nport = 1\npath = \"Zebrafish\"", ":1: 'checks.a': the path"},
      {"[checks.a]\ntype = \"command\"", ":1: 'checks.a': a check of type command has a command"},
      {"[checks.a]\ntype = \"command\"\ncommand = \"'Zebra\"",
       ":3: 'checks.a.command': a quote is not closed"},
      {"[checks.a]\ntype = \"tcp\"\nport = 1\nprocesses = [\"Zebrafish\"]",
       ":4: 'checks.a.processes' names a process"},
      {"services = \"Zebrafish\"", ":1: 'services' must be written as [[services]]"},
      {"[[services]]\nprotocol = \"Zebrafish\"", ":2: 'services.protocol': expected tcp or udp"},
      {"[[services]]\ninternal_port = \"Zebrafish\"", ":2: 'services.internal_port' must be a port"},
      {"[[services]]\n[[services.ports]]\nport = 1", ":1: 'services' must have 'internal_port'"},
      {"[[services]]\ninternal_port = 1\n[[services.ports]]\nport = 0",
       ":4: 'services.ports.port' must be a port"},
      {"[[services]]\ninternal_port = 1\nports = [1]", ":3: 'services.ports' must be written as"},
      {"[[services]]\ninternal_port = 1\n[[services.http_checks]]\npath = \"Zebrafish\"",
       ":3: 'services.http_checks': the path"},
      {"[http_service]\n[[http_service.checks]]", ":1: 'http_service' must have 'internal_port'"},
      {"[processes]\nweb = \"run 'Zebrafish\"", ":2: 'processes.web': a quote is not closed"},
      {"[processes]\n\"a/b\" = \"x\"", ":2: a process has a name"},
      {"[files]\nguest_path = \"/a\"", "'files' must be written as [[files]]"},
      {"[[files]]\nraw_value = \"Zebrafish\"", "[[files]] without 'guest_path'"},
      {"[[files]]\nguest_path = \"/a\"", "exactly one of"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"Zebrafish\"\nsecret_name = \"A\"", "exactly one of"},
      {"[[files]]\nguest_path = \"Zebrafish\"\nraw_value = \"\"",
       ":2: 'files.guest_path': a path in a Machine must be"},
      {"[[files]]\nguest_path = \"/proc/1/mem\"\nraw_value = \"\"", ":2: 'files.guest_path'"},
      {"[[files]]\nguest_path = \"/a\"\nsecret_name = \"Zebra fish\"",
       ":3: 'files.secret_name': a secret's name"},
      {"[[files]]\nguest_path = \"/a\"\nlocal_path = \"\"", ":3: 'files.local_path' is empty"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = 1", ":3: 'files.raw_value' must be a string"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nmode = 400", ":4: 'files.mode' must be octal"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nmode = \"04755\"",
       ":4: 'files.mode': a mode is at most 0777"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nmode = 0o4755", ":4: 'files.mode' is at most 0777"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nenv = \"Zebrafish\"",
       ":4: 'files.env' must be true or false"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nenv = true",
       "'files.env' is for files with 'secret_name'"},
      {"[[files]]\nguest_path = \"/a/b\"\nsecret_name = \"A\"\nreload = \"Zebrafish\"",
       ":4: 'files.reload': expected restart, none or a signal"},
      {"[[files]]\nguest_path = \"/a/b\"\nraw_value = \"\"\nreload = \"none\"",
       "'files.reload' is for files with 'secret_name'"},
      {"[[files]]\nguest_path = \"/etc/b\"\nsecret_name = \"A\"\nreload = \"none\"",
       ":1: 'files.reload': file /etc/b is to be replaced"},
      {"[[files]]\nguest_path = \"/a/b\"\nsecret_name = \"A\"\nreload = \"none\"\n\n[[files]]\nguest_path = "
       "\"/a/c\"\nraw_value = \"\"",
       ":6: 'files.reload': the folder of /a/b"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nprocesses = \"web\"",
       ":4: 'files.processes' must be a list"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\nprocesses = [\"Zebrafish\"]",
       ":4: 'files.processes' names a process"},
      {"[[files]]\nguest_path = \"/a\"\nraw_value = \"\"\n\n[[files]]\nguest_path = \"/a\"\nraw_value = \"\"",
       ":5: 'files.guest_path': the path /a is given twice"},
      {"[[files]]\nguest_path = \"/a/b\"\nraw_value = \"\"\n\n[[files]]\nguest_path = \"/a\"\nraw_value = "
       "\"\"",
       ":5: 'files.guest_path': the path /a would be both"},
  };
  for (const auto &[text, message] : wrong) {
    EXPECT_THAT(error(text), HasSubstr(message)) << text;
    EXPECT_THAT(error(text), HasSubstr("/srv/web/fly.toml:")) << text;
    EXPECT_THAT(error(text), Not(HasSubstr("Zebra"))) << text;
  }
}

TEST(AppConfig, HostileTomlEndsWithAnError) {
  EXPECT_THAT(error("a = " + std::string(200'000, '[')), HasSubstr("not TOML"));
  EXPECT_THAT(error(std::string("a = \"\0\"", 8)), HasSubstr("not TOML"));
  EXPECT_THAT(error("a = \"\xff\""), HasSubstr("not TOML"));
}

TEST(AppConfig, CommandsAreSplitAsAShellDoes) {
  using Words = std::vector<std::string>;
  const std::vector<std::pair<std::string, Words>> cases = {
      {"", {}},
      {" \t\n", {}},
      {"a", {"a"}},
      {"  a  b\tc\n", {"a", "b", "c"}},
      {"a 'b c' \"d e\"", {"a", "b c", "d e"}},
      {"a'b'\"c\"d", {"abcd"}},
      {"'' \"\"", {"", ""}},
      {"a\\ b", {"a b"}},
      {"'a\\n'", {"a\\n"}},
      {"\"a\\n\\\"\\\\\\$\\`\"", {"a\\n\"\\$`"}},
      {"a\\\nb", {"ab"}},
      {"\"a\\\nb\"", {"ab"}},
      {"'it'\\''s'", {"it's"}},
      {"$HOME *.txt `ls` a;b|c>d # e", {"$HOME", "*.txt", "`ls`", "a;b|c>d", "#", "e"}},
      {"\"it's\" 'say \"hi\"'", {"it's", "say \"hi\""}},
  };
  for (const auto &[text, words] : cases) EXPECT_EQ(split_command(text).value(), words) << text;
  for (const char *open : {"'", "\"", "a 'b", "a \"b\\\"", "a\\"})
    EXPECT_FALSE(split_command(open).has_value()) << open;
}

class AppConfigFile : public testing::Test {
 protected:
  AppConfigFile() {
    std::string pattern = (std::filesystem::temp_directory_path() / "coffer-app-config-XXXXXX").string();
    if (::mkdtemp(pattern.data())) folder_ = pattern;
  }
  ~AppConfigFile() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  void write(const char *name, std::string_view text) const { std::ofstream(folder_ / name) << text; }
  std::filesystem::path folder_;
};

TEST_F(AppConfigFile, CofferTomlComesBeforeFlyToml) {
  EXPECT_EQ(find_app_config(folder_), std::nullopt);
  write("fly.toml", "app = \"fly\"");
  EXPECT_EQ(find_app_config(folder_), folder_ / "fly.toml");
  write("coffer.toml", "app = \"coffer\"");
  EXPECT_EQ(find_app_config(folder_), folder_ / "coffer.toml");
  EXPECT_EQ(read_app_config(folder_ / "coffer.toml")->app, "coffer");
}

TEST_F(AppConfigFile, WhatIsNoFileIsRefused) {
  EXPECT_EQ(read_app_config(folder_ / "none.toml").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(read_app_config(folder_).error().code, ErrorCode::kInvalidArgument);
  ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(read_app_config(folder_ / "fifo").error().code, ErrorCode::kInvalidArgument);
  write("big.toml", "# " + std::string(1 << 20, 'x'));
  EXPECT_THAT(read_app_config(folder_ / "big.toml").error().message, HasSubstr("larger than 1 MiB"));
}

}  // namespace
}  // namespace coffer
