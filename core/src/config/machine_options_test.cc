#include "coffer/config/machine_options.h"

#include <gmock/gmock.h>

namespace coffer {
namespace {

using testing::HasSubstr;
using testing::Not;

template <class T>
std::string refusal(const Result<T> &r, std::string_view written) {
  if (r) {
    ADD_FAILURE() << written << " was accepted";
    return "";
  }
  EXPECT_EQ(r.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(r.error().message, Not(HasSubstr("Zebra")));
  return r.error().message;
}

TEST(MachineOptions, PortsHaveAnAddressAHostPortAndAProtocolOrNot) {
  const std::vector<std::pair<std::string, Port>> good = {
      {"80", {"", 0, 80, false}},
      {"8080:80", {"", 8080, 80, false}},
      {"0:80", {"", 0, 80, false}},
      {"53:53/udp", {"", 53, 53, true}},
      {"53/udp", {"", 0, 53, true}},
      {"8080:80/tcp", {"", 8080, 80, false}},
      {"127.0.0.1:8080:80", {"127.0.0.1", 8080, 80, false}},
      {"127.0.0.1:0:80", {"127.0.0.1", 0, 80, false}},
      {"[::1]:8080:80/udp", {"::1", 8080, 80, true}},
      {"65535:65535", {"", 65535, 65535, false}}};
  for (const auto &[text, port] : good) {
    const auto p = parse_port(text);
    ASSERT_TRUE(p) << text << ": " << p.error().message;
    EXPECT_EQ(*p, port) << text;
  }
}

TEST(MachineOptions, WrongPortsAreRefused) {
  for (const char *text : {"",
                           ":",
                           "0",
                           "8080:0",
                           "65536",
                           "65536:80",
                           "80:65536",
                           "-1",
                           "-1:80",
                           "+80",
                           "80 ",
                           " 80",
                           "8 0",
                           "8080-8090:80",
                           "0x50",
                           "80:80/sctp",
                           "80/",
                           "80:80/TCP",
                           ":80",
                           "127.0.0.1::80",
                           "127.0.0.1:80",
                           "Zebra:80:80",
                           "1.2.3:80:80",
                           "1.2.3.256:80:80",
                           "::1:80:80",
                           "[::1:80:80",
                           "[::1]80:80",
                           "[1.2.3.4]:80:80",
                           "[]:80:80",
                           "1:2:3:4",
                           "99999999999999999999:80"})
    refusal(parse_port(text), text);
}

TEST(MachineOptions, APortOfTheHostIsGivenAwayOnce) {
  const auto check = [](const std::vector<std::string> &texts) {
    std::vector<Port> ports;
    for (const std::string &t : texts) ports.push_back(*parse_port(t));
    return check_ports(ports);
  };
  EXPECT_TRUE(check({"80:80", "81:80", "80:80/udp", "0:80", "0:80"}));
  EXPECT_TRUE(check({"127.0.0.1:80:80", "127.0.0.2:80:80"}));
  EXPECT_EQ(refusal(check({"80:80", "80:81"}), ""), "port 80 of the host is given twice");
  EXPECT_EQ(refusal(check({"127.0.0.1:80:80", "80:81"}), ""), "port 80 of the host is given twice");
}

TEST(MachineOptions, MountsAreOfAFolderOrAVolume) {
  const std::vector<std::pair<std::string, Mount>> good = {
      {"data:/var/lib/x", {"data", "/var/lib/x", false}},
      {"/srv/data:/data:ro", {"/srv/data", "/data", true}},
      {"/srv/data/:/data:rw", {"/srv/data/", "/data", false}},
      {"a_b.c-1:/d", {"a_b.c-1", "/d", false}}};
  for (const auto &[text, mount] : good) {
    const auto m = parse_mount(text);
    ASSERT_TRUE(m) << text << ": " << m.error().message;
    EXPECT_EQ(*m, mount) << text;
  }
}

TEST(MachineOptions, WrongMountsAreRefused) {
  for (const std::string &text : {std::string(),
                                  std::string("Zebra"),
                                  std::string("/a"),
                                  std::string(":/a"),
                                  std::string("a:"),
                                  std::string("a:b"),
                                  std::string("./a:/b"),
                                  std::string("../a:/b"),
                                  std::string("~/a:/b"),
                                  std::string("/a/../b:/c"),
                                  std::string("/a/./b:/c"),
                                  std::string("/a,b:/c"),
                                  std::string("/a\nb:/c"),
                                  std::string("-a:/b"),
                                  std::string(".a:/b"),
                                  std::string("a b:/c"),
                                  std::string("a:/b:z"),
                                  std::string("a:/b:ro:ro"),
                                  std::string("a:/b:"),
                                  std::string("a:/"),
                                  std::string("a:/proc"),
                                  std::string("a:/proc/x"),
                                  std::string("a:/dev"),
                                  std::string("a:/.coffer"),
                                  std::string("a:/b/../c"),
                                  std::string("a:/b//c"),
                                  std::string("a:/b/"),
                                  std::string(129, 'a') + ":/b",
                                  "/" + std::string(4095, 'a') + ":/b",
                                  "a:/" + std::string(4095, 'a')})
    refusal(parse_mount(text), text);
}

TEST(MachineOptions, MountsAndFilesDoNotMeet) {
  const std::vector<Mount> mounts = {{"a", "/data", false}, {"b", "/data2", false}};
  EXPECT_TRUE(check_mounts(mounts, {"/run/key", "/data3"}));
  for (const char *file : {"/data", "/data/key", "/data2/x/y"})
    EXPECT_THAT(refusal(check_mounts(mounts, {"/run/key", file}), file), HasSubstr(file));
  EXPECT_THAT(refusal(check_mounts({{"a", "/x/y", false}}, {"/x"}), "/x"), HasSubstr("/x/y"));
  for (const char *target : {"/data", "/data/x", "/data2/y"})
    EXPECT_THAT(refusal(check_mounts({mounts[0], mounts[1], {"c", target, false}}, {}), target),
                HasSubstr(target));
}

TEST(MachineOptions, MemoryIsBytesOrHasAUnit) {
  const std::vector<std::pair<std::string, uint64_t>> good = {
      {"6291456", 6u << 20},  {"6m", 6u << 20},  {"6144k", 6u << 20},
      {"256mb", 256u << 20},  {"1GB", 1u << 30}, {"2g", 2ull << 30},
      {"512M", 512ull << 20}, {"0", 0},          {"8388608b", 8u << 20}};
  for (const auto &[text, bytes] : good) {
    const auto m = parse_memory(text);
    ASSERT_TRUE(m) << text << ": " << m.error().message;
    EXPECT_EQ(*m, bytes) << text;
  }
  for (const char *text :
       {"", "b", "m", "mb", "-1", "+6m", "6 m", "6.5m", "6mm", "6t", "1e9", "Zebra", "5m", "1", "6291455",
        "18446744073709551616", "18446744073709551615", "1048577g", "17179869184g"})
    refusal(parse_memory(text), text);
}

TEST(MachineOptions, RestartPoliciesAreThree) {
  EXPECT_EQ(parse_restart("no").value(), RestartPolicy::kNo);
  EXPECT_EQ(parse_restart("never").value(), RestartPolicy::kNo);
  EXPECT_EQ(parse_restart("on-failure").value(), RestartPolicy::kOnFailure);
  EXPECT_EQ(parse_restart("always").value(), RestartPolicy::kAlways);
  for (const char *text : {"", "Zebra", "ALWAYS", "unless-stopped", "on-failure:3", "yes"})
    refusal(parse_restart(text), text);
}

TEST(MachineOptions, SignalsAreNamesOrNumbers) {
  EXPECT_EQ(parse_signal("SIGTERM").value(), "SIGTERM");
  EXPECT_EQ(parse_signal("usr1").value(), "SIGUSR1");
  EXPECT_EQ(parse_signal("SIGRTMIN+3").value(), "SIGRTMIN+3");
  EXPECT_EQ(parse_signal("15").value(), "15");
  for (const char *text :
       {"", "SIG", "0", "65", "-9", "SIG TERM", "TERM;", "SIG9", "TERM\n", "15s", "ABCDEFGHIJKLMNOPQ"})
    refusal(parse_signal(text), text);
}

TEST(MachineOptions, StopTimeoutsAreSecondsUpToADay) {
  EXPECT_EQ(parse_stop_timeout("1").value(), 1'000u);
  EXPECT_EQ(parse_stop_timeout("5s").value(), 5'000u);
  EXPECT_EQ(parse_stop_timeout("2m").value(), 120'000u);
  EXPECT_EQ(parse_stop_timeout("86400").value(), 86'400'000u);
  EXPECT_EQ(parse_stop_timeout("1440m").value(), 86'400'000u);
  for (const char *text :
       {"", "s", "0", "0s", "-1", "1.5", "86401", "1441m", "1h", "5 s", "Zebra", "18446744073709551616"})
    refusal(parse_stop_timeout(text), text);
}

TEST(MachineOptions, DurationsHaveTheirUnits) {
  const std::vector<std::pair<std::string, uint64_t>> good = {
      {"500ms", 500},     {"10s", 10'000},     {"1m30s", 90'000}, {"2h", 7'200'000},
      {"1s500ms", 1'500}, {"24h", 86'400'000}, {"0s", 0},         {"86400000ms", 86'400'000}};
  for (const auto &[text, ms] : good) EXPECT_EQ(parse_duration(text).value(), ms) << text;
  for (const char *text : {"", "5", "s", "ms", "-1s", "1.5s", "1 s", "1d", "10S", "1m30", "m30s", "24h1ms",
                           "25h", "Zebra", "18446744073709551616s", "18446744073709551615ms"})
    refusal(parse_duration(text), text);
}

TEST(MachineOptions, AFileIsReplacedWithOrWithoutASignalOrNot) {
  EXPECT_EQ(parse_reload("restart").value(), "");
  EXPECT_EQ(parse_reload("none").value(), "none");
  EXPECT_EQ(parse_reload("signal:HUP").value(), "signal:SIGHUP");
  EXPECT_EQ(parse_reload("signal:sigusr1").value(), "signal:SIGUSR1");
  EXPECT_EQ(parse_reload("signal:10").value(), "signal:10");
  for (const char *text : {"", "Zebra", "HUP", "signal", "signal:", "signal:0", "signal:Zebra fish", "NONE"})
    refusal(parse_reload(text), text);
}

TEST(MachineOptions, FilesThatAreReplacedHaveAFolderOfTheirOwn) {
  EXPECT_TRUE(check_reload({}));
  EXPECT_TRUE(check_reload({{"/etc/a", ""}, {"/etc/app/b", "none"}, {"/etc/app/c", "signal:SIGHUP"}}));
  EXPECT_TRUE(check_reload({{"/etc/app2/a", ""}, {"/etc/app/b", "none"}, {"/secrets/c", "none"}}));
  for (const char *path : {"/a", "/etc/a", "/run/a", "/usr/a", "/var/a", "/tmp/a", "/bin/a", "/sbin/a",
                           "/lib/a", "/root/a", "/home/a", "/proc/a", "/sys/a", "/dev/a"}) {
    EXPECT_THAT(refusal(check_reload({{path, "none"}}), path), HasSubstr(path));
    EXPECT_TRUE(check_reload({{path, ""}})) << path;
  }
  for (const char *other : {"/run/app/b", "/run/app/x/y"}) {
    EXPECT_THAT(refusal(check_reload({{"/run/app/a", "none"}, {other, ""}}), other), HasSubstr(other));
    EXPECT_THAT(refusal(check_reload({{other, ""}, {"/run/app/a", "none"}}), other), HasSubstr(other));
  }
}

TEST(MachineOptions, ChecksCanBeTried) {
  Check c;
  c.name = "services.1.tcp.1";
  c.port = 80;
  EXPECT_TRUE(check_check(c));
  c.kind = Check::Kind::kHttp;
  c.path = "/health?deep=1";
  EXPECT_TRUE(check_check(c));
  const auto refused = [&](auto change) {
    Check wrong = c;
    change(wrong);
    return !refusal(check_check(wrong), "a check").empty();
  };
  for (const char *name : {"", "Zebra fish", "a/b", "a\n"})
    EXPECT_TRUE(refused([&](Check &w) { w.name = name; })) << name;
  EXPECT_TRUE(refused([](Check &w) { w.port = 0; }));
  for (const char *path : {"", "Zebra", "/a b", "/a\r\nX: 1", "/\xc3\xa4"})
    EXPECT_TRUE(refused([&](Check &w) { w.path = path; })) << path;
  for (const char *method : {"", "get", "GET /", "GET\r\n", "ABCDEFGHIJKLMNOPQ"})
    EXPECT_TRUE(refused([&](Check &w) { w.method = method; })) << method;
  EXPECT_TRUE(refused([](Check &w) { w.interval_ms = 0; }));
  EXPECT_TRUE(refused([](Check &w) { w.timeout_ms = 0; }));
  c.kind = Check::Kind::kCommand;
  EXPECT_TRUE(refused([](Check &) {}));
  EXPECT_TRUE(refused([](Check &w) { w.command = {""}; }));
  c.command = {"true"};
  EXPECT_TRUE(check_check(c));
}

TEST(MachineOptions, VariablesOfSecretsAreNamedOnce) {
  EXPECT_TRUE(check_variables({}));
  EXPECT_TRUE(check_variables({{"A", "A"}, {"A", "B"}, {"B", "C"}}));
  EXPECT_EQ(refusal(check_variables({{"A", "A"}, {"B", "A"}}), ""), "variable A is given twice");
  for (const char *name : {"", "1A", "A-B", "A=Zebra", "COFFER_A"}) {
    refusal(check_variables({{"A", name}}), name);
    refusal(check_variables({{name, "A"}}), name);
  }
}

TEST(MachineOptions, CapabilitiesAreUpperCaseWithoutTheirPrefix) {
  EXPECT_EQ(parse_capability("NET_RAW").value(), "NET_RAW");
  EXPECT_EQ(parse_capability("cap_net_raw").value(), "NET_RAW");
  EXPECT_EQ(parse_capability("all").value(), "ALL");
  for (const char *text : {"", "CAP_", "NET RAW", "NET-RAW", "NET_RAW,CHOWN", "A\n"})
    refusal(parse_capability(text), text);
}

TEST(MachineOptions, NetworksHavePlainNames) {
  EXPECT_TRUE(check_network("host"));
  EXPECT_TRUE(check_network("back-end_1.2"));
  for (const char *text : {"", "-a", "a b", "a/b", "container:x", "a\n", "{}"})
    refusal(check_network(text), text);
}

}  // namespace
}  // namespace coffer
