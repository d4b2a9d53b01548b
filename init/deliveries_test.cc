#include "deliveries.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "boot_frame.h"

namespace coffer::runtime {
namespace {
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;
using namespace std::string_literals;
using namespace std::string_view_literals;

// The one thing of a host that a frame takes: memory.
struct FakeHost {
  coffer_host table{};
  FakeHost() {
    table.struct_size = sizeof table;
    table.secure_alloc = [](const coffer_host *, size_t n) noexcept -> void * { return ::calloc(1, n); };
    table.secure_free = [](const coffer_host *, void *p, size_t) noexcept { ::free(p); };
    sdk::Host::raw() = &table;
  }
} host;

struct Delivery {
  std::string name, value;
  uint32_t via = COFFER_VIA_ENV, mode = 0400, flags = COFFER_DLV_SECRET, uid = 0, gid = 0;
};
Delivery file(std::string path, std::string value = "", uint32_t mode = 0400) {
  return {std::move(path), std::move(value), COFFER_VIA_TMPFS, mode};
}

struct Raw {
  std::vector<coffer_delivery> all;
  std::vector<const coffer_delivery *> pointers;
  explicit Raw(const std::vector<Delivery> &in) {
    for (const Delivery &d : in)
      all.push_back({sizeof(coffer_delivery), d.via, d.flags, d.mode, sdk::to_str(d.name),
                     sdk::to_bytes(d.value), d.uid, d.gid});
    for (const coffer_delivery &d : all) pointers.push_back(&d);
  }
};

Places check(const std::vector<Delivery> &in) {
  const Raw raw(in);
  coffer_machine_spec spec{};
  spec.deliveries = raw.pointers.data();
  spec.n_deliveries = raw.pointers.size();
  return check_deliveries(spec);
}

using Pairs = std::vector<std::pair<std::string, std::string>>;
coffer_machine_spec spec_with(const std::vector<coffer_pair> &env, const std::vector<coffer_pair> &labels) {
  coffer_machine_spec spec{};
  spec.env = env.data();
  spec.n_env = env.size();
  spec.labels = labels.data();
  spec.n_labels = labels.size();
  return spec;
}
std::vector<coffer_pair> pairs(const Pairs &in) {
  std::vector<coffer_pair> out;
  for (const auto &[key, value] : in) out.push_back({sdk::to_str(key), sdk::to_bytes(value)});
  return out;
}
std::vector<std::string> env_of(const Pairs &in) {
  const auto raw = pairs(in);
  return plain_env(spec_with(raw, {}));
}
Pairs labels_of(const Pairs &in) {
  const auto raw = pairs(in);
  return labels(spec_with({}, raw));
}

std::string refusal(const std::function<void()> &call) {
  try {
    call();
  } catch (const sdk::Error &e) {
    EXPECT_EQ(e.status, COFFER_INVALID_ARGUMENT);
    return e.message;
  }
  return "nothing was refused";
}

std::string frame(const Places &announced, const std::vector<Delivery> &in, FrameOf which = FrameOf::kAll) {
  const Raw raw(in);
  const sdk::SecureBuffer b = build_frame("i-1", announced, raw.pointers.data(), raw.pointers.size(), which);
  return {reinterpret_cast<const char *>(b.data()), b.size()};
}
std::vector<std::string> entries(std::string data) {
  coffer_boot_frame f;
  EXPECT_EQ(coffer_boot_check(reinterpret_cast<uint8_t *>(data.data()), data.size(), "i-1", 3, &f),
            COFFER_BOOT_OK);
  std::vector<std::string> out;
  coffer_boot_entry e;
  for (size_t at = 0; coffer_boot_next(&f, &at, &e);)
    out.push_back(std::string(e.name, e.name_size) + ": " +
                  std::string(reinterpret_cast<char *>(e.value), e.value_size));
  return out;
}

TEST(Deliveries, InstanceIdsAreFitForFileNames) {
  for (const std::string good : {"a", "01J9Z-x_y.z", "0"}) EXPECT_TRUE(instance_id_ok(good)) << good;
  EXPECT_TRUE(instance_id_ok(std::string(128, 'a')));
  for (const std::string &bad : {""s, "."s, ".."s, ".a"s, "a/b"s, "a b"s, "a\0b"s, "\xc3\xa4"s, "a:b"s})
    EXPECT_FALSE(instance_id_ok(bad)) << bad;
  EXPECT_FALSE(instance_id_ok(std::string(129, 'a')));
}

TEST(Deliveries, VariableNamesAreThoseOfAShell) {
  for (const std::string good : {"A", "_", "a1_B"}) EXPECT_TRUE(variable_name_ok(good)) << good;
  for (const std::string &bad : {""s, "1A"s, "A-B"s, "A=B"s, "A B"s, "A\0"s, "\xc3\x84"s})
    EXPECT_FALSE(variable_name_ok(bad)) << bad;
}

TEST(Deliveries, PlacesKeepTheOrderOfVariablesAndSortFiles) {
  const Places p = check({{"B"}, file("/run/z"), {"A"}, file("/run/a")});
  EXPECT_THAT(p.variables, ElementsAre("B", "A"));
  EXPECT_THAT(p.files, ElementsAre("/run/a", "/run/z"));
}

TEST(Deliveries, WrongPlacesAreRefusedByNameOrNumber) {
  const auto why = [](const std::vector<Delivery> &in) { return refusal([&] { check(in); }); };
  EXPECT_EQ(why({{"A"}, {"1BAD"}}), "variable name number 2 is not valid");
  EXPECT_EQ(why({{"A"}, {"A"}}), "variable A is delivered twice");
  EXPECT_EQ(why({file("etc/key")}), "guest path number 1 is not absolute");
  EXPECT_THAT(why({{"A"}, file("/a/../b")}), HasSubstr("guest path number 2 "));
  EXPECT_THAT(why({file("/proc/key")}), HasSubstr("guest path number 1 "));
  EXPECT_EQ(why({file("/a"), file("/a")}), "guest path /a is given twice");
  EXPECT_EQ(why({file("/a/b"), file("/a")}), "guest path /a is a folder of /a/b");
  EXPECT_EQ(why({file("/a/b"), file("/a!"), file("/a")}), "guest path /a is a folder of /a/b");
  EXPECT_EQ(why({file("/a", "", 01000)}), "the mode of guest path /a is over 0777");
  EXPECT_EQ(why({{"A", "", 4}}), "delivery number 1 asks for a way that this runtime lacks");
}

TEST(Deliveries, APathBesideAnotherIsNoFolderOfIt) {
  EXPECT_THAT(check({file("/run/key"), file("/run/keys")}).files, ElementsAre("/run/key", "/run/keys"));
}

TEST(Deliveries, PlainVariablesBecomeNameAndValue) {
  EXPECT_THAT(env_of({{"B", "x=y"}, {"A", ""}}), ElementsAre("B=x=y", "A="));
  EXPECT_EQ(refusal([] { env_of({{"A", "canary"}, {"", "canary"}}); }),
            "variable name number 2 is not valid");
  EXPECT_EQ(refusal([] { env_of({{"A", "canary"}, {"A", "canary"}}); }), "variable A is given twice");
  EXPECT_EQ(refusal([] { env_of({{"A", "canary\0"s}}); }), "variable A holds a NUL byte");
}

TEST(Deliveries, LabelsHaveAKeyWithoutEquals) {
  EXPECT_THAT(labels_of({{"coffer.app", "a=b"}, {"x", ""}}),
              ElementsAre(Pair("coffer.app", "a=b"), Pair("x", "")));
  for (const Pairs &bad :
       {Pairs{{"", "v"}}, Pairs{{"a=b", "v"}}, Pairs{{"a\0b"s, "v"}}, Pairs{{"a", "v\0"s}}})
    EXPECT_EQ(refusal([&] { labels_of(bad); }), "label number 1 is not valid");
}

TEST(Deliveries, TextRefusesNul) {
  EXPECT_EQ(text({"abc", 3}, "the name"), "abc");
  EXPECT_EQ(text({nullptr, 0}, "the name"), "");
  EXPECT_EQ(refusal([] { text({"a\0c", 3}, "the name"); }), "the name holds a NUL byte");
}

TEST(Deliveries, TheFrameHoldsEveryDeliveryInItsOrder) {
  const std::vector<Delivery> in = {file("/run/z", "\0z"s), {"B", "2"}, file("/run/a", "a"), {"A", "1"}};
  EXPECT_THAT(entries(frame(check(in), in)), ElementsAre("A: 1", "B: 2", "/run/a: a", "/run/z: \0z"s));
}

TEST(Deliveries, AFrameOfVariablesAloneStillChecksTheFiles) {
  const std::vector<Delivery> in = {{"A", "1"}, file("/run/a", "value of a file")};
  const std::string bytes = frame(check(in), in, FrameOf::kEnvOnly);
  EXPECT_THAT(entries(bytes), ElementsAre("A: 1"));
  EXPECT_THAT(bytes, Not(HasSubstr("value of a file")));
  EXPECT_THAT(refusal([&] { frame(check(in), {in[0]}, FrameOf::kEnvOnly); }), HasSubstr("not those"));
}

TEST(Deliveries, AFrameHoldsWhatWasAnnouncedAndNothingElse) {
  const Places announced = check({{"A"}, file("/run/a")});
  const auto why = [&](const std::vector<Delivery> &in) { return refusal([&] { frame(announced, in); }); };
  const std::string other = "the deliveries are not those that were announced when the instance was created";
  EXPECT_EQ(why({}), other);
  EXPECT_EQ(why({{"A"}}), other);
  EXPECT_EQ(why({{"A"}, file("/run/b")}), other);
  EXPECT_EQ(why({{"A"}, {"B"}, file("/run/a")}), other);
  EXPECT_EQ(why({{"A"}, {"A"}, file("/run/a")}), "delivery number 2 is given twice");
  EXPECT_EQ(why({{"A", "canary\0"s}, file("/run/a")}),
            "the deliveries do not fit: "s + coffer_boot_error_text(COFFER_BOOT_NUL_IN_ENV));
}

TEST(Deliveries, OwnersReachTheFrame) {
  Delivery d = file("/run/a", "v", 0440);
  d.flags |= COFFER_DLV_OWNER;
  d.uid = 1000;
  d.gid = 2000;
  std::string data = frame(check({d}), {d});
  coffer_boot_frame f;
  ASSERT_EQ(coffer_boot_check(reinterpret_cast<uint8_t *>(data.data()), data.size(), "i-1", 3, &f),
            COFFER_BOOT_OK);
  coffer_boot_entry e;
  size_t at = 0;
  ASSERT_TRUE(coffer_boot_next(&f, &at, &e));
  EXPECT_EQ(e.mode, 0440u);
  EXPECT_EQ(e.uid, 1000u);
  EXPECT_EQ(e.gid, 2000u);
}

// ---- folders that are replaced as a whole ----
Delivery in_folder(std::string path) {
  Delivery d = file(std::move(path), "new");
  d.flags |= COFFER_DLV_FOLDER;
  return d;
}

TEST(Folders, AreThoseOfTheirFiles) {
  const Places p = check({in_folder("/s/b"), file("/alone"), in_folder("/s/a"), in_folder("/t/u/c")});
  EXPECT_THAT(p.folders, ElementsAre("/s", "/t/u"));
  EXPECT_THAT(p.files, ElementsAre("/alone", "/s/a", "/s/b", "/t/u/c"));
}

TEST(Folders, HoldNothingElse) {
  for (const Delivery &other : {file("/s/b"), file("/s/sub/b"), in_folder("/s/sub/b"), in_folder("/s/..data"),
                                in_folder("/s/..b"), in_folder("/b")})
    EXPECT_THROW(check({in_folder("/s/a"), other}), sdk::Error) << other.name;
}

TEST(Folders, AreUpdatedWithAllTheirFilesAndNoOthers) {
  const Places p = check({in_folder("/s/b"), in_folder("/s/a"), in_folder("/t/c"), file("/alone")});
  const auto folders = [&](const std::vector<Delivery> &given) {
    const Raw raw(given);
    std::vector<std::string> out;
    for (const auto &[folder, files] : check_update(p, raw.pointers.data(), raw.pointers.size()))
      out.push_back(folder + " " + std::to_string(files.size()));
    return out;
  };
  const Delivery a = in_folder("/s/a"), b = in_folder("/s/b"), c = in_folder("/t/c");
  EXPECT_THAT(folders({a, b}), ElementsAre("/s 2"));
  EXPECT_THAT(folders({c, b, a}), ElementsAre("/s 2", "/t 1"));
  Delivery variable = a, mode = a;
  variable.via = COFFER_VIA_ENV;
  mode.mode = 01000;
  for (const std::vector<Delivery> &bad : {std::vector<Delivery>{},
                                           {a},
                                           {a, a},
                                           {a, c},
                                           {a, b, in_folder("/s/d")},
                                           {a, b, in_folder("/u/d")},
                                           {a, b, file("/alone")},
                                           {a, b, variable},
                                           {mode, b}})
    EXPECT_THROW(folders(bad), sdk::Error);
}

// ---- probes ----
coffer_probe_spec probe_spec(uint32_t kind, uint32_t port, std::string_view method = "",
                             std::string_view path = "") {
  return {sizeof(coffer_probe_spec), kind, port, 0, sdk::to_str(method), sdk::to_str(path)};
}

TEST(ReadProbe, TakesAPortAndARequest) {
  const Probe tcp = read_probe(probe_spec(COFFER_PROBE_TCP, 65535, "not", "of tcp"));
  EXPECT_EQ(tcp.port, 65535u);
  EXPECT_FALSE(tcp.http);
  const Probe http = read_probe(probe_spec(COFFER_PROBE_HTTP, 1, "HEAD", "/a?b=%20"));
  EXPECT_TRUE(http.http);
  EXPECT_EQ(http.method, "HEAD");
  EXPECT_EQ(http.path, "/a?b=%20");
}

TEST(ReadProbe, RefusesWhatARequestLineCannotHold) {
  for (const coffer_probe_spec &bad :
       {probe_spec(0, 80), probe_spec(3, 80), probe_spec(COFFER_PROBE_TCP, 0),
        probe_spec(COFFER_PROBE_TCP, 65536), probe_spec(COFFER_PROBE_HTTP, 80, "", "/"),
        probe_spec(COFFER_PROBE_HTTP, 80, "get", "/"), probe_spec(COFFER_PROBE_HTTP, 80, "GET", ""),
        probe_spec(COFFER_PROBE_HTTP, 80, "GET", "a"), probe_spec(COFFER_PROBE_HTTP, 80, "GET", "/\r\nX: y"),
        probe_spec(COFFER_PROBE_HTTP, 80, "GET", "/a\0b"sv)})
    EXPECT_THROW(read_probe(bad), sdk::Error);
}

}  // namespace
}  // namespace coffer::runtime
