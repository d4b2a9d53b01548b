// Every stored object: round trips, damage, and the bytes of the worked example in docs/format.md.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <new>
#include <set>
#include <sstream>

#include "coffer/base/names.h"
#include "coffer/crypto/hpke_receiver.h"
#include "coffer/crypto/hpke_sender.h"
#include "coffer/format/machine.h"
#include "coffer/format/manifest.h"
#include "coffer/format/record.h"

// The largest block that was asked for since the last reset: a count in a stored object must not decide it.
namespace {
size_t largest_block = 0;
}
[[gnu::noinline]] void *operator new(size_t size) {
  largest_block = std::max(largest_block, size);
  if (void *p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void *p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void *p, size_t) noexcept { std::free(p); }

namespace coffer {
namespace {

using testing::HasSubstr;

template <size_t N>
std::array<uint8_t, N> filled(uint8_t byte) {
  std::array<uint8_t, N> a;
  a.fill(byte);
  return a;
}
SecretBytes secret(std::string_view text) { return SecretBytes::copy_of(as_bytes(text)); }

// ---- one of each, no field empty, no two fields alike ----

AppEntry an_app() { return {"web", filled<16>(0x01), 1'700'000'000'001}; }

AppKeyRecord an_app_key(bool replaces) {
  AppKeyRecord k{"web", filled<16>(0x02), 3, filled<32>(0x03), {}};
  if (replaces) k.replaces = filled<16>(0x04);
  return k;
}

Record a_record() { return {7, filled<32>(0x05), 258, {0xde, 0xad, 0xbe, 0xef}}; }

Header a_header() {
  return {filled<16>(0x06), 9, filled<32>(0x07), filled<32>(0x08), 1'700'000'000'002, "ann"};
}

Body a_body() { return {2, {filled<32>(0x09), filled<32>(0x0a)}}; }

Entry an_entry(std::string name) {
  return {std::move(name), 4, filled<32>(0x0b), filled<8>(0x0c), kEnvOk | kBase64Ok, 11, 12, "bob"};
}

MachineConfig a_config() {
  MachineConfig c;
  c.name = "web-1";
  c.process = "worker";
  c.image = "sha256:abc";
  c.image_name = "nginx:1";
  c.entrypoint = {"/bin/sh", "-c"};
  c.argv = {"echo", "", "a\nb"};
  c.env = {{"LANG", "C"}, {"PORT", "80"}};
  c.files = {{"/run/key", "KEY", "", 0440, FileEncoding::kBase64, true, true, 1000, 1001},
             {"/etc/motd", "", "hello", 0444, FileEncoding::kRaw, false, false, 0, 0}};
  c.user = "nobody";
  c.workdir = "/srv";
  c.stop_signal = "SIGQUIT";
  c.stop_timeout_ms = 5'000;
  c.kind = MachineKind::kLocal;
  c.ports = {{"127.0.0.1", 8080, 80, false}, {"", 0, 53, true}};
  c.mounts = {{"data", "/data", true}, {"/srv/pages", "/pages", false}};
  c.cap_drop = {"NET_RAW", "CHOWN"};
  c.network = "backend";
  c.read_only = true;
  c.memory_bytes = 64u << 20;
  c.restart = RestartPolicy::kAlways;
  return c;
}

LaunchSpec a_spec() {
  return {filled<16>(0x0d), "0123456789abcd", 5, filled<32>(0x0e), a_config(), 6, filled<32>(0x0f), 7, 8};
}

MachineRecord a_machine() {
  return {filled<16>(0x10), "0123456789abcd", "web-1", Desired::kStopped, 13, filled<32>(0x11), 14, 15};
}

Release a_release() { return {filled<16>(0x12), 16, 17, ReleaseOutcome::kDone, 18, "ann", "secrets set"}; }

// A kind of stored object: bytes of one, and what decoding and encoding again makes of any bytes.
struct Kind {
  std::string name;
  Bytes bytes;
  std::function<Result<Bytes>(ByteSpan)> again;
};

template <class T>
std::function<Result<Bytes>(ByteSpan)> through(Result<T> (*decode)(ByteSpan)) {
  return [decode](ByteSpan in) -> Result<Bytes> {
    COFFER_TRY(const T object, decode(in));
    return encode(object);
  };
}

std::vector<Kind> every_kind() {
  const std::vector<Entry> entries = {an_entry("A"), an_entry("B")};
  return {
      {"App entry", encode(an_app()), through<AppEntry>(decode_app)},
      {"App key record", encode(an_app_key(true)), through<AppKeyRecord>(decode_app_key)},
      {"App key record, first of its name", encode(an_app_key(false)), through<AppKeyRecord>(decode_app_key)},
      {"record", encode(a_record()), through<Record>(decode_record)},
      {"header", encode(a_header()), through<Header>(decode_header)},
      {"body", encode(a_body()), through<Body>(decode_body)},
      {"part", encode_part(entries),
       [](ByteSpan in) -> Result<Bytes> {
         std::vector<Entry> out;
         COFFER_CHECK(decode_part(in, out));
         return encode_part(out);
       }},
      {"config", encode(a_config()), through<MachineConfig>(decode_config)},
      {"launch spec", encode(a_spec()), through<LaunchSpec>(decode_spec)},
      {"Machine record", encode(a_machine()), through<MachineRecord>(decode_machine)},
      {"release", encode(a_release()), through<Release>(decode_release)},
  };
}

TEST(Format, EveryObjectComesBackAsItWas) {
  for (const Kind &k : every_kind()) {
    const auto again = k.again(k.bytes);
    ASSERT_TRUE(again) << k.name << ": " << again.error().message;
    EXPECT_EQ(hex(*again), hex(k.bytes)) << k.name;
  }
}

TEST(Format, ACutObjectIsRefusedAtEveryByte) {
  for (const Kind &k : every_kind())
    for (size_t n = 0; n < k.bytes.size(); ++n) {
      const auto again = k.again(ByteSpan(k.bytes).first(n));
      ASSERT_FALSE(again) << k.name << " cut to " << n;
      ASSERT_EQ(again.error().code, ErrorCode::kDataLoss) << k.name;
    }
}

TEST(Format, OneByteMoreIsRefused) {
  for (const Kind &k : every_kind())
    for (const int more : {0, 1, 255}) {
      Bytes longer = k.bytes;
      longer.push_back(static_cast<uint8_t>(more));
      EXPECT_FALSE(k.again(longer)) << k.name;
    }
}

// So no two byte strings mean the same object: flags are 0 or 1, enumerations are closed, lengths fit.
TEST(Format, AChangedByteIsRefusedOrMeansAnotherObject) {
  for (const Kind &k : every_kind()) {
    size_t refused = 0;
    for (size_t at = 0; at < k.bytes.size(); ++at)
      for (const uint8_t change : {0x01, 0x02, 0x80, 0xff}) {
        Bytes changed = k.bytes;
        changed[at] ^= change;
        const auto again = k.again(changed);
        if (!again)
          ++refused;
        else
          ASSERT_EQ(hex(*again), hex(changed)) << k.name << " at " << at;
      }
    EXPECT_GE(refused, 16u) << k.name << ": not even the magic is checked";
  }
}

TEST(Format, AHugeLengthOrCountDoesNotDecideWhatIsAllocated) {
  for (const Kind &k : every_kind())
    for (size_t at = 4; at + 4 <= k.bytes.size(); ++at)
      for (const uint8_t top : {0x00, 0x7f, 0xff}) {
        Bytes changed = k.bytes;
        changed[at] = top;
        std::fill_n(changed.begin() + static_cast<ptrdiff_t>(at) + 1, 3, uint8_t{0xff});
        largest_block = 0;
        (void)k.again(changed);
        ASSERT_LE(largest_block, 16u << 10) << k.name << " at " << at;
      }
}

template <class T>
void expect_all_different(const T &one, const std::vector<std::function<void(T &)>> &changes) {
  std::set<std::string> seen = {hex(encode(one))};
  for (size_t i = 0; i < changes.size(); ++i) {
    T other = one;
    changes[i](other);
    EXPECT_TRUE(seen.insert(hex(encode(other))).second) << "change " << i << " is not in the bytes";
  }
}

TEST(Format, EveryFieldOfALaunchSpecIsInItsBytes) {
  using S = LaunchSpec;
  expect_all_different<S>(
      a_spec(), {[](S &s) { s.app_id[0]++; }, [](S &s) { s.machine += "0"; }, [](S &s) { s.number++; },
                 [](S &s) { s.undo[31]++; }, [](S &s) { s.version++; }, [](S &s) { s.header[0]++; },
                 [](S &s) { s.release++; }, [](S &s) { s.created_ms++; }, [](S &s) { s.config.name += "x"; },
                 [](S &s) { s.config.argv.push_back("x"); }});
  using C = MachineConfig;
  expect_all_different<C>(
      a_config(),
      {[](C &c) { c.name += "x"; }, [](C &c) { c.process += "x"; }, [](C &c) { c.image += "x"; },
       [](C &c) { c.image_name += "x"; }, [](C &c) { c.entrypoint.pop_back(); },
       // An argument moved over the border between two lists, or over that between two arguments.
       [](C &c) { c.argv.insert(c.argv.begin(), c.entrypoint.back()), c.entrypoint.pop_back(); },
       [](C &c) { c.argv = {"ech", "o", "a\nb"}; }, [](C &c) { c.argv = {"echo", "a\nb"}; },
       [](C &c) { c.env[0].second += "x"; }, [](C &c) { c.env[0] = {"LAN", "GC"}; },
       [](C &c) { c.files.pop_back(); }, [](C &c) { c.files[0].guest_path += "x"; },
       [](C &c) { c.files[0].secret += "x"; }, [](C &c) { c.files[0].literal = "x"; },
       [](C &c) { c.files[0].mode = 0400; }, [](C &c) { c.files[0].encoding = FileEncoding::kRaw; },
       [](C &c) { c.files[0].env = false; }, [](C &c) { c.files[0].has_owner = false; },
       [](C &c) { c.files[0].uid++; }, [](C &c) { c.files[0].gid++; }, [](C &c) { c.user += "x"; },
       [](C &c) { c.workdir += "x"; }, [](C &c) { c.stop_signal += "x"; }, [](C &c) { c.stop_timeout_ms++; },
       [](C &c) { c.kind = MachineKind::kService; }, [](C &c) { c.ports.pop_back(); },
       [](C &c) { c.ports[0].host_ip = ""; }, [](C &c) { c.ports[0].host_port++; },
       [](C &c) { c.ports[0].port++; }, [](C &c) { c.ports[0].udp = true; },
       [](C &c) { c.mounts.pop_back(); }, [](C &c) { c.mounts[0] = {"dat", "a/data", true}; },
       [](C &c) { c.mounts[0].target += "x"; }, [](C &c) { c.mounts[0].read_only = false; },
       [](C &c) { c.cap_drop = {"NET_RAWC", "HOWN"}; }, [](C &c) { c.cap_drop.clear(); },
       [](C &c) { c.network += "x"; }, [](C &c) { c.read_only = false; }, [](C &c) { c.memory_bytes++; },
       [](C &c) { c.restart = RestartPolicy::kNo; }, [](C &c) { c.secrets = std::vector<SecretVariable>(); },
       [](C &c) { c.secrets = std::vector<SecretVariable>{{"A", "B"}}; },
       [](C &c) { c.secrets = std::vector<SecretVariable>{{"A", "C"}}; },
       [](C &c) { c.secrets = std::vector<SecretVariable>{{"B", "B"}}; }, [](C &c) { c.checks = {Check{}}; },
       [](C &c) { c.checks = {Check{.name = "a"}}; }, [](C &c) { c.checks = {Check{.port = 1}}; },
       [](C &c) { c.checks = {Check{.kind = Check::Kind::kHttp}}; },
       [](C &c) { c.checks = {Check{.method = "HEAD"}}; }, [](C &c) { c.checks = {Check{.path = "/"}}; },
       [](C &c) { c.checks = {Check{.command = {"true"}}}; }, [](C &c) { c.checks = {Check{.grace_ms = 1}}; },
       [](C &c) { c.checks = {Check{.interval_ms = 1}}; }, [](C &c) { c.checks = {Check{.timeout_ms = 1}}; },
       [](C &c) { c.files[0].reload = "none"; }});
}

Release a_long_release() {
  Release r;
  r.app_id.fill(7);
  r.number = 3;
  r.version = 4;
  r.outcome = ReleaseOutcome::kFailed;
  r.created_ms = 5;
  r.who = "ann@laptop";
  r.reason = "deploy";
  r.why = "Machine a: it ended with exit code 1";
  r.policy = DeployPolicy{Strategy::kImmediate, 500, 1, 2};
  r.configs = {a_config(), a_config()};
  return r;
}

Rollout a_rollout() {
  Rollout r;
  r.app_id.fill(7);
  r.release = 3;
  r.version = 4;
  r.stage = Rollout::Stage::kBack;
  r.owner = "boot:1:2";
  r.beat = 5;
  r.waves = 1;
  r.hasty = true;
  r.why = "Machine a: it ended with exit code 1";
  r.steps = {{"0123456789abcd", "a", Hash{1}, Hash{2}, false, true},
             {"0123456789abce", "b", Hash{3}, Hash{}, true, false}};
  r.removed = {"0123456789abcf"};
  return r;
}

TEST(Format, ReleasesAndRolloutsComeBackAsTheyWere) {
  const Release r = a_long_release();
  const auto again = decode_release(encode(r));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->why, r.why);
  EXPECT_EQ(again->policy, r.policy);
  ASSERT_EQ(again->configs.size(), 2u);
  EXPECT_EQ(hex(encode(*again)), hex(encode(r)));
  const Rollout o = a_rollout();
  const auto other = decode_rollout(encode(o));
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_EQ(other->steps.size(), 2u);
  EXPECT_TRUE(other->steps[1].made);
  EXPECT_EQ(hex(encode(*other)), hex(encode(o)));
  for (const Bytes &whole : {encode(r), encode(o)})
    for (size_t n = 0; n < whole.size(); ++n) {
      EXPECT_FALSE(decode_release(ByteSpan(whole).first(n))) << n;
      EXPECT_FALSE(decode_rollout(ByteSpan(whole).first(n))) << n;
    }
}

TEST(Format, NumbersOutsideOfAClosedSetAreRefused) {
  for (const int v : {0, 4, 255}) {
    MachineRecord m = a_machine();
    m.desired = static_cast<Desired>(v);
    EXPECT_FALSE(decode_machine(encode(m))) << v;
    Release r = a_release();
    r.outcome = static_cast<ReleaseOutcome>(v);
    EXPECT_FALSE(decode_release(encode(r))) << v;
  }
  for (const int v : {0, 4, 255}) {
    MachineConfig c = a_config();
    c.restart = static_cast<RestartPolicy>(v);
    EXPECT_FALSE(decode_config(encode(c))) << v;
  }
  for (const int v : {2, 255}) {
    MachineConfig c = a_config();
    c.kind = static_cast<MachineKind>(v);
    EXPECT_FALSE(decode_config(encode(c))) << v;
    c = a_config();
    c.files[0].encoding = static_cast<FileEncoding>(v);
    EXPECT_FALSE(decode_config(encode(c))) << v;
  }
}

// a_config() as the code before cfc2 wrote it.
constexpr std::string_view kFirstConfig =
    "63666331000000057765622d3100000006776f726b65720000000a7368613235363a616263000000076e67696e783a310000"
    "0002000000072f62696e2f7368000000022d6300000003000000046563686f0000000000000003610a620000000200000004"
    "4c414e47000000014300000004504f525400000002383000000002000000082f72756e2f6b6579000000034b455900000000"
    "00000120010101000003e8000003e9000000092f6574632f6d6f7464000000000000000568656c6c6f000001240000000000"
    "000000000000000000066e6f626f6479000000042f7372760000000753494751554954000000000000138801";

TEST(Format, AConfigOfBeforePortsAndMountsIsReadAndWrittenAnew) {
  const auto c = decode_config(*unhex(kFirstConfig));
  ASSERT_TRUE(c) << c.error().message;
  MachineConfig expected = a_config();
  const MachineConfig fresh;
  expected.ports = fresh.ports;
  expected.mounts = fresh.mounts;
  expected.cap_drop = fresh.cap_drop;
  expected.network = fresh.network;
  expected.read_only = fresh.read_only;
  expected.memory_bytes = fresh.memory_bytes;
  expected.restart = fresh.restart;
  EXPECT_EQ(hex(encode(*c)), hex(encode(expected)));
  EXPECT_EQ(c->restart, RestartPolicy::kOnFailure);
}

TEST(Format, AConfigOfBeforeHasNothingBehindItsEndAndNoOtherVersionIsRead) {
  const Bytes first = *unhex(kFirstConfig);
  for (size_t n = 0; n < first.size(); ++n) ASSERT_FALSE(decode_config(ByteSpan(first).first(n))) << n;
  Bytes longer = first;
  longer.push_back(0);
  EXPECT_FALSE(decode_config(longer));
  for (const char version : {'0', '2', '3', '4'}) {  // as cfc2 it ends too early
    Bytes other = first;
    other[3] = static_cast<uint8_t>(version);
    EXPECT_FALSE(decode_config(other)) << version;
  }
  Bytes second = encode(a_config());
  second[3] = '1';  // as cfc1 it has too much
  EXPECT_FALSE(decode_config(second));
}

TEST(Format, APortOver65535IsRefused) {
  const Bytes good = encode(a_config());
  // host_port 8080 and port 80 of the first port, one behind the other.
  const Bytes ports = *unhex("00001f9000000050");
  const auto at = std::ranges::search(good, ports).begin() - good.begin();
  ASSERT_LT(at, static_cast<ptrdiff_t>(good.size()));
  for (const ptrdiff_t offset : {1, 5}) {
    Bytes wrong = good;
    wrong[static_cast<size_t>(at + offset)] = 1;
    EXPECT_FALSE(decode_config(wrong)) << offset;
  }
}

TEST(Format, VersionsAndNumbersBeginAtOne) {
  Header h = a_header();
  h.version = 0;
  EXPECT_FALSE(decode_header(encode(h)));
  LaunchSpec s = a_spec();
  s.number = 0;
  EXPECT_FALSE(decode_spec(encode(s)));
  s = a_spec();
  s.version = 0;
  EXPECT_FALSE(decode_spec(encode(s)));
}

TEST(Format, ARecordOfAnotherSuiteIsRefusedWithItsNumber) {
  Bytes bytes = encode(a_record());
  bytes[4] = 2;
  const auto r = decode_record(bytes);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, ErrorCode::kDataLoss);
  EXPECT_THAT(r.error().message, HasSubstr("suite 2"));
  EXPECT_THAT(r.error().remedy, HasSubstr("newer"));
}

// ---- padding ----

TEST(Padding, BucketsAreFewAndCostAtMostTwelvePercent) {
  std::set<size_t> buckets;
  size_t before = 0;
  for (size_t n = 0; n <= kMaxValue + 4; ++n) {
    const size_t p = padded_size(n);
    ASSERT_GE(p, std::max<size_t>(n, 64)) << n;
    ASSERT_GE(p, before) << n;
    ASSERT_LE(n > 64 ? p * 100 : 0, n * 112) << n;
    ASSERT_EQ(padded_size(p), p) << n;
    buckets.insert(before = p);
  }
  EXPECT_LT(buckets.size(), 300u);
}

TEST(Padding, ValuesOfAllSizesComeBack) {
  std::vector<size_t> sizes = {1000, 4091, 4092, 4093, 131071, kMaxValue - 1, kMaxValue};
  for (size_t n = 0; n <= 300; ++n) sizes.push_back(n);
  for (const size_t n : sizes) {
    SecretBytes value(n);
    for (size_t i = 0; i < n; ++i) value.fill()[i] = static_cast<uint8_t>(i * 31 + 1);
    const SecretBytes padded = pad(value);
    EXPECT_EQ(padded.size(), padded_size(4 + n));
    const auto back = unpad(padded);
    ASSERT_TRUE(back) << n;
    ASSERT_TRUE(std::ranges::equal(back->reveal(), value.reveal())) << n;
  }
}

TEST(Padding, PaddingThatIsNotZeroIsRefused) {
  SecretBytes padded = pad(secret("value"));
  for (size_t at = 4 + 5; at < padded.size(); ++at) {
    padded.fill()[at] = 1;
    EXPECT_FALSE(unpad(padded)) << at;
    padded.fill()[at] = 0;
  }
  EXPECT_TRUE(unpad(padded));
}

TEST(Padding, AnotherBucketIsRefused) {
  const SecretBytes padded = pad(secret("value"));
  for (const size_t size : {padded.size() - 1, padded.size() + 1, padded_size(padded.size() + 1)}) {
    SecretBytes other(size);
    std::ranges::copy(padded.reveal().first(std::min(size, padded.size())), other.fill().begin());
    EXPECT_FALSE(unpad(other)) << size;
  }
  EXPECT_FALSE(unpad(SecretBytes()));
  EXPECT_FALSE(unpad(SecretBytes(3)));
}

TEST(Padding, ALengthThatTheBytesCannotHoldIsRefused) {
  for (const uint32_t length : {61u, 64u, 0x7fffffffu, 0xffffffffu}) {
    SecretBytes padded = pad(secret("value"));
    for (size_t i = 0; i < 4; ++i) padded.fill()[i] = static_cast<uint8_t>(length >> (24 - 8 * i));
    EXPECT_FALSE(unpad(padded)) << length;
  }
  EXPECT_FALSE(unpad(pad(SecretBytes(kMaxValue + 1))));
}

// ---- signed envelopes ----

class Envelope : public testing::Test {
 protected:
  const SigningKey key_ = *SigningKey::from_seed(filled<32>(0x21));
  const SigningKey other_ = *SigningKey::from_seed(filled<32>(0x22));
  const std::vector<PublicKey> trusted_ = {key_.public_key()};
  const Bytes envelope_ = sign(key_, kManifestLabel, as_bytes("payload"));
};

TEST_F(Envelope, GivesThePayloadThatWasSigned) {
  const auto payload = open_signed(envelope_, kManifestLabel, trusted_);
  ASSERT_TRUE(payload) << payload.error().message;
  EXPECT_EQ(as_text(*payload), "payload");
  EXPECT_TRUE(open_signed(sign(key_, kManifestLabel, {}), kManifestLabel, trusted_));
}

TEST_F(Envelope, ASignatureForOnePurposeSaysNothingForAnother) {
  const std::string_view labels[] = {kAppLabel,          kAppKeyLabel,      kMachineLabel,
                                     kLaunchSpecLabel,   kReleaseLabel,     kReceiptLabel,
                                     kTokenRequestLabel, kOpenRequestLabel, kOpenAnswerLabel};
  for (const std::string_view label : labels) EXPECT_FALSE(open_signed(envelope_, label, trusted_)) << label;
  EXPECT_EQ((std::set<std::string_view>(std::begin(labels), std::end(labels)).size()), std::size(labels));
}

TEST_F(Envelope, TrustComesFromThePinnedKeysAlone) {
  const Bytes forged = sign(other_, kManifestLabel, as_bytes("payload"));
  const auto r = open_signed(forged, kManifestLabel, trusted_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, ErrorCode::kDataLoss);
  EXPECT_THAT(r.error().message, HasSubstr("not trusted"));
  EXPECT_FALSE(open_signed(envelope_, kManifestLabel, {}));
  const std::vector<PublicKey> both = {other_.public_key(), key_.public_key()};
  EXPECT_TRUE(open_signed(envelope_, kManifestLabel, both));

  // The name of a trusted signer over the signature of another.
  Bytes renamed = forged;
  std::ranges::copy(key_.public_key(), renamed.end() - 96);
  EXPECT_FALSE(open_signed(renamed, kManifestLabel, both));
}

TEST_F(Envelope, AnyFlippedBitIsRefused) {
  const std::vector<PublicKey> both = {other_.public_key(), key_.public_key()};
  for (size_t at = 0; at < envelope_.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      Bytes changed = envelope_;
      changed[at] ^= static_cast<uint8_t>(1 << bit);
      ASSERT_FALSE(open_signed(changed, kManifestLabel, both)) << "byte " << at << " bit " << bit;
    }
}

TEST_F(Envelope, ACutOrLongerOneIsRefused) {
  for (size_t n = 0; n < envelope_.size(); ++n)
    ASSERT_FALSE(open_signed(ByteSpan(envelope_).first(n), kManifestLabel, trusted_)) << n;
  Bytes longer = envelope_;
  longer.push_back(0);
  EXPECT_FALSE(open_signed(longer, kManifestLabel, trusted_));
}

TEST_F(Envelope, AHeaderOfAnotherAppIsRefused) {
  const Header h = a_header();
  const Bytes envelope = sign(key_, kManifestLabel, encode(h));
  const auto opened = open_header(envelope, trusted_, h.app_id);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->hash, sha256(envelope));
  EXPECT_FALSE(open_header(envelope, trusted_, filled<16>(0x77)));
}

TEST_F(Envelope, ALaunchSpecIsNamedByTheHashOfItsEnvelope) {
  const Bytes envelope = sign(key_, kLaunchSpecLabel, encode(a_spec()));
  const auto opened = open_spec(envelope, trusted_);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->hash, sha256(envelope));
  EXPECT_EQ(opened->envelope, envelope);
  EXPECT_EQ(opened->spec.config.argv, a_config().argv);
  EXPECT_FALSE(open_spec(sign(key_, kMachineLabel, encode(a_spec())), trusted_));
}

// ---- manifest ----

TEST(ManifestParts, AreSortedOverAllParts) {
  const auto part = [](std::vector<std::string> names) {
    std::vector<Entry> entries;
    for (std::string &n : names) entries.push_back(an_entry(std::move(n)));
    return encode_part(entries);
  };
  std::vector<Entry> entries;
  ASSERT_TRUE(decode_part(part({"A", "B"}), entries));
  ASSERT_TRUE(decode_part(part({"C"}), entries));
  EXPECT_EQ(entries.size(), 3u);
  for (const char *name : {"A", "B", "C", ""}) {
    std::vector<Entry> so_far(entries);
    EXPECT_FALSE(decode_part(part({name}), so_far)) << "a part beginning with " << name;
  }
  for (const auto &names : {std::vector<std::string>{"B", "A"}, {"A", "A"}, {""}}) {
    std::vector<Entry> fresh;
    const auto r = decode_part(part(names), fresh);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ErrorCode::kDataLoss);
  }
}

std::vector<Entry> sorted_entries(size_t count) {
  std::vector<Entry> entries;
  for (size_t i = 0; i < count; ++i) entries.push_back(an_entry("NAME_" + std::to_string(i)));
  std::ranges::sort(entries, {}, &Entry::name);
  return entries;
}

std::set<Bytes> parts_of(std::span<const Entry> entries) {
  std::set<Bytes> parts;
  size_t total = 0;
  for (const size_t n : part_sizes(entries)) {
    EXPECT_GT(n, 0u);
    parts.insert(encode_part(entries.subspan(total, n)));
    total += n;
  }
  EXPECT_EQ(total, entries.size());
  return parts;
}

TEST(ManifestParts, AnInsertionChangesOnlyThePartItFallsInto) {
  const std::vector<Entry> entries = sorted_entries(3000);
  const std::set<Bytes> before = parts_of(entries);
  EXPECT_GT(before.size(), 4u);
  for (size_t i = 0; i < 200; ++i) {
    std::vector<Entry> more = entries;
    const Entry added = an_entry("NAME_" + std::to_string(i * 13) + "_NEW");
    more.insert(std::ranges::upper_bound(more, added.name, {}, &Entry::name), added);
    size_t gone = 0, fresh = 0;
    const std::set<Bytes> after = parts_of(more);
    for (const Bytes &p : before) gone += !after.contains(p);
    for (const Bytes &p : after) fresh += !before.contains(p);
    ASSERT_LE(gone, 1u) << added.name;
    ASSERT_LE(fresh, 2u) << added.name;  // two when the new name itself is a place to cut
  }
}

TEST(ManifestParts, APartHasALargestSizeWhateverTheNames) {
  std::vector<Entry> entries;
  for (size_t i = 0; entries.size() < 5000; ++i)
    if (const std::string name = "N" + std::to_string(1'000'000 + i); sha256(as_bytes(name))[0] != 0)
      entries.push_back(an_entry(name));
  EXPECT_EQ(part_sizes(entries), (std::vector<size_t>{2048, 2048, 904}));
  EXPECT_TRUE(part_sizes({}).empty());
}

TEST(ManifestDigest, DependsOnCredentialAppNameAndValueAndOnNothingElse) {
  const SecretBytes credential = secret(std::string(32, 'c')), other = secret(std::string(32, 'd'));
  const AppId app = filled<16>(1);
  DigestKey key(digest_key(credential, app)), same(digest_key(credential, app)),
      foreign(digest_key(other, app)), next_app(digest_key(credential, filled<16>(2)));
  const Digest d = key.digest("NAME", secret("value"));
  EXPECT_EQ(key.digest("NAME", secret("value")), d);
  EXPECT_EQ(same.digest("NAME", secret("value")), d);
  EXPECT_NE(foreign.digest("NAME", secret("value")), d);
  EXPECT_NE(next_app.digest("NAME", secret("value")), d);
  EXPECT_NE(key.digest("NAMES", secret("value")), d);
  EXPECT_NE(key.digest("NAME", secret("valu")), d);
  // A byte that moves from the name to the value is another pair.
  EXPECT_NE(key.digest("NAMEv", secret("alue")), d);
  EXPECT_NE(key.digest("NAME", SecretBytes()), d);
}

TEST(ValueFlags, AVariableEndsAtTheLimitOfExecve) {
  const auto env_ok = [](std::string_view name, const std::string &value) {
    return (value_flags(name, secret(value)) & kEnvOk) != 0;
  };
  EXPECT_TRUE(env_ok("NAME", ""));
  EXPECT_TRUE(env_ok("NAME", std::string(131071 - 5, '!')));
  EXPECT_FALSE(env_ok("NAME", std::string(131071 - 4, '!')));
  EXPECT_FALSE(env_ok("NAMES", std::string(131071 - 5, '!')));
  EXPECT_FALSE(env_ok("NAME", std::string("a\0b", 3)));
  EXPECT_FALSE(env_ok("NAME", std::string("\0", 1)));
  EXPECT_TRUE(env_ok("NAME", "\x01\xff=\n\"'"));
}

TEST(ValueFlags, Base64IsWhatDecodesWithBlanksAndNothingElse) {
  const auto base64_ok = [](std::string_view value) {
    return (value_flags("NAME", secret(value)) & kBase64Ok) != 0;
  };
  for (const char *good :
       {"", "QQ==", "QUI=", "QUJD", "QUJDQQ==", "QU\nJD\n", " Q Q = = ", "\tQUJD\r\n", "+/+/"})
    EXPECT_TRUE(base64_ok(good)) << good;
  for (const char *bad : {"Q", "QQ", "QQ=", "QQQ", "Q===", "====", "==", "QQ==QQ==", "QUJ=D",
                          "QUJD=", "QUJDQ", "-_-_", "QU\vJD", "QUJD!", "QU\xff"})
    EXPECT_FALSE(base64_ok(bad)) << bad;
  EXPECT_FALSE(base64_ok(std::string_view("QUJD\0", 5)));
}

// ---- the worked example ----

// The hex block behind `<!-- example:NAME -->`.
std::string documented(const std::string &name) {
  std::ifstream in(COFFER_FORMAT_DOC);
  std::stringstream all;
  all << in.rdbuf();
  const std::string text = all.str(), marker = "<!-- example:" + name + " -->";
  size_t at = text.find(marker);
  if (at == std::string::npos) return "no block " + name;
  at = text.find('\n', text.find("```", at)) + 1;
  std::string digits;
  for (const char c : text.substr(at, text.find("```", at) - at))
    if (c != '\n' && c != ' ') digits += c;
  return digits;
}

TEST(WorkedExample, BytesAreThoseOfTheDocumentation) {
  AppId app_id;
  for (size_t i = 0; i < app_id.size(); ++i) app_id[i] = static_cast<uint8_t>(i);
  constexpr uint32_t kEpoch = 1;
  constexpr uint64_t kCreated = 1'700'000'000'000;
  const SecretBytes app_key = SecretBytes::copy_of(filled<32>(0x11));
  const PublicKey app_public = *x25519_public(app_key.reveal());
  const SigningKey writer = *SigningKey::from_seed(filled<32>(0x44));
  EXPECT_EQ(hex(app_public), documented("app-public-key"));
  EXPECT_EQ(hex(writer.public_key()), documented("writer-public-key"));

  const auto ephemeral = [] {
    return KeyPair{SecretBytes::copy_of(filled<32>(0x22)), *x25519_public(filled<32>(0x22))};
  };
  auto sender = HpkeSender::setup_with(ephemeral(), app_public, seal_info(app_id, kEpoch));
  ASSERT_TRUE(sender);
  const SecretBytes value = secret("s3cr3t");
  Record record{kEpoch, sender->enc(), sender->sequence(), {}};
  record.ciphertext = *sender->seal(seal_aad(app_id, kEpoch, "API_KEY"), pad(value).reveal());
  const Bytes record_bytes = encode(record);
  EXPECT_EQ(hex(record_bytes), documented("record"));

  DigestKey digests(digest_key(SecretBytes::copy_of(filled<32>(0x33)), app_id));
  const Entry entry{"API_KEY",
                    2,
                    sha256(record_bytes),
                    digests.digest("API_KEY", value),
                    value_flags("API_KEY", value),
                    kCreated,
                    kCreated,
                    "ann@laptop"};
  const Bytes part = encode_part({&entry, 1});
  EXPECT_EQ(hex(part), documented("part"));
  const Bytes body = encode(Body{1, {sha256(part)}});
  EXPECT_EQ(hex(body), documented("body"));
  const Header header{app_id, 2, filled<32>(0x55), sha256(body), kCreated, "ann@laptop"};
  const Bytes header_envelope = sign(writer, kManifestLabel, encode(header));
  EXPECT_EQ(hex(header_envelope), documented("header"));

  LaunchSpec spec;
  spec.app_id = app_id;
  spec.machine = "0123456789abcd";
  spec.number = 1;
  spec.config.name = "web-1";
  spec.config.image = spec.config.image_name = "host";
  spec.config.argv = {"sleep", "60"};
  spec.config.env = {{"PORT", "8080"}};
  spec.version = 2;
  spec.header = sha256(header_envelope);
  spec.release = 1;
  spec.created_ms = kCreated;
  EXPECT_EQ(hex(sign(writer, kLaunchSpecLabel, encode(spec))), documented("launch-spec"));

  // And who has the App's private key reads the value back.
  const auto stored = decode_record(record_bytes);
  ASSERT_TRUE(stored);
  auto receiver = HpkeReceiver::setup(app_key.reveal(), stored->enc, seal_info(app_id, kEpoch));
  ASSERT_TRUE(receiver);
  const auto padded =
      receiver->open(stored->sequence, seal_aad(app_id, kEpoch, "API_KEY"), stored->ciphertext);
  ASSERT_TRUE(padded);
  EXPECT_EQ(as_text(unpad(*padded)->reveal()), "s3cr3t");
  // For another name it is no record at all.
  EXPECT_FALSE(receiver->open(stored->sequence, seal_aad(app_id, kEpoch, "API_KEYS"), stored->ciphertext));
}

}  // namespace
}  // namespace coffer
