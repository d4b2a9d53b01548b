// The key service over real plugins: who may open what, for how long, and how often.  Each wrong request is
// made from the right one by changing one thing, and gets a refusal of its own; the right one opens.
#include "coffer/keys/key_service.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <set>
#include <stdexcept>
#include <thread>

#include "coffer/base/clock.h"
#include "coffer/crypto/hpke_receiver.h"
#include "coffer/crypto/hpke_sender.h"
#include "coffer/format/record.h"
#include "coffer/keys/key_socket.h"
#include "fakes.h"

namespace coffer {
namespace {

using fakes::Fails;
using fakes::ok;
namespace fs = std::filesystem;

using Values = std::map<std::string, std::string>;

void flip(Bytes &b, size_t at) { b.at(at) ^= 1; }

// One version of an App's manifest, with everything that proves it.
struct Version {
  Bytes header, body, part;
  Hash hash{};  // of `header`
  uint64_t number = 0;
  std::map<std::string, Bytes> records;
};

// How a request is spoilt on its way.
struct Spoil {
  const SigningKey *token_signer = nullptr, *open_signer = nullptr;  // nullptr: the host
  std::function<void(TokenRequest &)> token_request;
  std::function<void(Bytes &)> token;
  std::function<void(OpenRequest &)> request;
  std::function<void(Bytes &)> sent;  // the signed open request
  std::function<void()> before_open;  // between token and open
};

// The service behind its socket, for one user who may be everybody.
struct Served {
  Served(const std::string &socket, Keys &keys, std::function<Result<std::unique_ptr<Keys>>()> beside)
      : client(socket) {
    auto listening = KeyServer::listen(
        {.socket = socket, .api = {::geteuid()}, .agents = {::geteuid()}, .beside = std::move(beside)}, keys);
    if (!listening) throw std::runtime_error(listening.error().message);
    server.emplace(*std::move(listening));
    thread = std::thread([this] { EXPECT_TRUE(ok(server->run(stop))); });
  }
  ~Served() {
    const uint64_t one = 1;
    EXPECT_EQ(::write(stop, &one, sizeof one), ssize_t{sizeof one});
    thread.join();
    ::close(stop);
  }
  const int stop = ::eventfd(0, EFD_CLOEXEC);
  std::optional<KeyServer> server;
  KeyClient client;
  std::thread thread;
};

class KeyServiceTest : public testing::TestWithParam<const char *> {
 protected:
  void SetUp() override {
    const auto kms = open_kms();
    ASSERT_TRUE(ok(kms));
    const auto made = KeyService::initialize(open_store(), *kms);
    ASSERT_TRUE(ok(made));
    identity_ = *made;
    reopen();
    web_ = new_app("web");
    other_ = new_app("other");
    v1_ = version(web_, 1, {}, {{"A", "first a"}, {"B", "b"}});
    v2_ = version(web_, 2, v1_.hash, {{"A", "second a"}, {"B", "b"}});
    spec1_ = spec(web_, "m1", 1, v1_);
    spec2_ = spec(web_, "m1", 2, v2_, spec1_.hash);
    m2_ = spec(web_, "m2", 1, v2_);
    other1_ = version(other_, 1, {}, {{"A", "a of other"}, {"B", "b"}});
    other_spec_ = spec(other_, "o1", 1, other1_);
    ASSERT_TRUE(ok(keys_->advance(web_.app_id, {v1_.header})));
    ASSERT_TRUE(ok(keys_->grant(web_.app_id, "m1", host_.public_key(), spec1_.envelope)));
    ASSERT_TRUE(ok(keys_->advance(web_.app_id, {v2_.header})));
    ASSERT_TRUE(ok(keys_->grant(web_.app_id, "m2", host_.public_key(), m2_.envelope)));
    ASSERT_TRUE(ok(keys_->advance(other_.app_id, {other1_.header})));
    ASSERT_TRUE(ok(keys_->grant(other_.app_id, "o1", host_.public_key(), other_spec_.envelope)));
  }

  // ---- the service ----
  Storage open_store() const {
    auto opened =
        Storage::open(fakes::plugin(std::string(GetParam()).substr(0, std::string_view(GetParam()).find('+')),
                                    {{"path", folder_.file("keys")}}));
    if (!opened) throw std::runtime_error(opened.error().message);
    return *std::move(opened);
  }
  Result<Kms> open_kms() const {
    return Kms::open(fakes::plugin("kms-local", {{"path", folder_.file("kms")}}));
  }
  KeyService service() {
    auto opened = KeyService::open(
        open_store(), [this] { return open_kms(); }, {writer_.public_key()}, [this] { return now_.load(); },
        &log_);
    if (!opened) throw std::runtime_error(opened.error().message);
    for (const SigningKey *host : {&host_, &stranger_}) opened->trust(host->public_key());
    return *std::move(opened);
  }
  // As another process, or after a crash: nothing but the store is left.
  void reopen() {
    served_.reset();
    service_.emplace(service());
    keys_ = &*service_;
    if (!std::string_view(GetParam()).ends_with("+socket")) return;
    served_.emplace(folder_.file("keys.sock"), *service_, [this]() -> Result<std::unique_ptr<Keys>> {
      return std::make_unique<KeyService>(service());
    });
    keys_ = &served_->client;
  }

  // ---- what a writer signs ----
  AppKeyRecord new_app(const std::string &name) {
    const auto key = keys_->create_app(name);
    EXPECT_TRUE(ok(key));
    const auto payload = open_signed(key->signed_record, kAppKeyLabel, {&identity_, 1});
    EXPECT_TRUE(ok(payload));
    return decode_app_key(*payload).value();
  }

  Version version(const AppKeyRecord &app, uint64_t number, const Hash &previous, const Values &values) {
    Version v;
    v.number = number;
    HpkeSender sender = HpkeSender::setup(app.public_key, seal_info(app.app_id, app.epoch)).value();
    std::vector<Entry> entries;
    for (const auto &[name, value] : values) {
      Record record;
      record.epoch = app.epoch;
      record.enc = sender.enc();
      record.sequence = sender.sequence();
      const SecretBytes padded = pad(SecretBytes::copy_of(as_bytes(value)));
      record.ciphertext = sender.seal(seal_aad(app.app_id, app.epoch, name), padded.reveal()).value();
      v.records[name] = encode(record);
      Entry e;
      e.name = name;
      e.version = number;
      e.record = sha256(v.records[name]);
      e.flags = kEnvOk;
      e.who = "ann";
      entries.push_back(std::move(e));
    }
    v.part = encode_part(entries);
    Body body;
    body.entries = static_cast<uint32_t>(entries.size());
    body.parts = {sha256(v.part)};
    v.body = encode(body);
    Header header;
    header.app_id = app.app_id;
    header.version = number;
    header.previous = previous;
    header.body = sha256(v.body);
    header.who = "ann";
    v.header = sign(writer_, kManifestLabel, encode(header));
    v.hash = sha256(v.header);
    return v;
  }

  SignedSpec spec(const AppKeyRecord &app, const std::string &machine, uint64_t number, const Version &v,
                  const Hash &undo = {}) {
    return signed_spec(writer_, app, machine, number, v, undo);
  }
  static SignedSpec signed_spec(const SigningKey &by, const AppKeyRecord &app, const std::string &machine,
                                uint64_t number, const Version &v, const Hash &undo = {}) {
    SignedSpec s;
    s.spec.app_id = app.app_id;
    s.spec.machine = machine;
    s.spec.number = number;
    s.spec.undo = undo;
    s.spec.config.name = machine;
    s.spec.config.image = "host";
    s.spec.config.argv = {"/bin/true"};
    s.spec.version = v.number;
    s.spec.header = v.hash;
    s.envelope = sign(by, kLaunchSpecLabel, encode(s.spec));
    s.hash = sha256(s.envelope);
    return s;
  }

  // ---- a boot ----
  // Opens what `s` names, as the agent of the host does; `headers`: those that are sent.
  Result<Values> open(const SignedSpec &s, const Version &v, const std::vector<Bytes> &headers,
                      const Spoil &spoil = {}) {
    TokenRequest asked;
    asked.app_id = s.spec.app_id;
    asked.machine = s.spec.machine;
    asked.instance_id = "instance";
    asked.spec = s.hash;
    asked.nonce = random_array<16>();
    if (spoil.token_request) spoil.token_request(asked);
    COFFER_TRY(Bytes token, keys_->token(sign(spoil.token_signer ? *spoil.token_signer : host_,
                                              kTokenRequestLabel, encode(asked))));
    if (spoil.token) spoil.token(token);
    OpenRequest request;
    request.token = token;
    request.spec = s.envelope;
    request.headers = headers;
    request.proof_header = v.header;
    request.proof_body = v.body;
    request.proof_parts = {v.part};
    for (const auto &[name, record] : v.records) request.records.emplace_back(name, record);
    const KeyPair ephemeral = x25519_generate();
    request.ephemeral = ephemeral.public_key;
    if (spoil.request) spoil.request(request);
    Bytes sent = sign(spoil.open_signer ? *spoil.open_signer : host_, kOpenRequestLabel, encode(request));
    if (spoil.sent) spoil.sent(sent);
    if (spoil.before_open) spoil.before_open();
    last_sent_ = sent;
    COFFER_TRY(const Bytes answer, keys_->open(sent));
    return read(answer, sent, ephemeral);
  }
  Result<Values> open_newest(const Spoil &spoil = {}) { return open(spec2_, v2_, {v2_.header}, spoil); }

  Result<Values> read(const Bytes &signed_answer, const Bytes &sent, const KeyPair &ephemeral) {
    COFFER_TRY(const ByteSpan payload, open_signed(signed_answer, kOpenAnswerLabel, {&identity_, 1}));
    COFFER_TRY(const OpenAnswer answer, decode_open_answer(payload));
    const Hash request = sha256(sent);
    EXPECT_EQ(answer.request, request);
    COFFER_TRY(HpkeReceiver receiver,
               HpkeReceiver::setup(ephemeral.private_key.reveal(), answer.enc, answer_info(request)));
    COFFER_TRY(const SecretBytes plaintext, receiver.open(0, request, answer.ciphertext));
    COFFER_TRY(const std::vector<OpenedSecret> opened, decode_opened(plaintext));
    Values out;
    for (const OpenedSecret &o : opened) out[o.name] = as_text(o.value.reveal());
    return out;
  }

  std::vector<AuditFile> logs() const { return {{"keys", log_.file()}}; }
  std::vector<AuditEntry> logged() const {
    std::vector<AuditEntry> all;
    EXPECT_TRUE(ok(read_audit(logs(), [&](const AuditFile &, std::string_view line, bool) {
      const auto e = decode_audit_line(line);
      EXPECT_TRUE(ok(e));
      if (e) all.push_back(e->entry);
    })));
    return all;
  }

  void opens_newest() {
    const auto opened = open_newest();
    ASSERT_TRUE(ok(opened));
    EXPECT_EQ(*opened, (Values{{"A", "second a"}, {"B", "b"}}));
  }

  const fakes::Folder folder_;
  const SigningKey writer_ = SigningKey::generate(), host_ = SigningKey::generate(),
                   stranger_ = SigningKey::generate();
  PublicKey identity_{};
  std::atomic<uint64_t> now_ = now_ms();
  const AuditLog log_{folder_.path() / "audit" / "keys.log"};
  std::optional<KeyService> service_;
  std::optional<Served> served_;
  Keys *keys_ = nullptr;  // the service, or its socket
  AppKeyRecord web_, other_;
  Version v1_, v2_, other1_;
  SignedSpec spec1_, spec2_, m2_, other_spec_;
  Bytes last_sent_;
};

TEST_P(KeyServiceTest, TheGrantedHostOpensExactlyWhatItsLaunchSpecNames) {
  opens_newest();
  const auto machine_2 = open(m2_, v2_, {v2_.header});
  ASSERT_TRUE(ok(machine_2));
  EXPECT_EQ(*machine_2, (Values{{"A", "second a"}, {"B", "b"}}));
  const auto other = open(other_spec_, other1_, {other1_.header});
  ASSERT_TRUE(ok(other));
  EXPECT_EQ(*other, (Values{{"A", "a of other"}, {"B", "b"}}));
  const auto one = open_newest({.request = [](OpenRequest &r) { r.records.pop_back(); }});
  ASSERT_TRUE(ok(one));
  EXPECT_EQ(*one, (Values{{"A", "second a"}}));
}

// P3, and all that the storage could change on the way.
TEST_P(KeyServiceTest, EachWrongRequestIsRefusedForItsOwnReason) {
  const Version v3 = version(web_, 3, v2_.hash, {{"A", "third a"}});
  const Version fork = version(web_, 2, v1_.hash, {{"A", "forked a"}, {"B", "b"}});
  const Version v4 = version(web_, 4, v3.hash, {{"A", "fourth a"}});
  const Version loose = version(web_, 3, v1_.hash, {{"A", "loose a"}});
  const std::vector<Bytes> chain = {v2_.header};
  struct Case {
    const char *what;
    std::function<Result<Values>()> attempt;
    ErrorCode code;
    const char *text;
  };
  const auto denied = ErrorCode::kPermissionDenied, data_loss = ErrorCode::kDataLoss;
  const auto with = [this](Spoil spoil) { return [this, spoil] { return open_newest(spoil); }; };
  const auto changed = [&](std::function<void(OpenRequest &)> request) {
    return with({.request = std::move(request)});
  };
  const Case cases[] = {
      {"a token for another host", with({.token_signer = &stranger_}), denied,
       "the token request is not signed by the host"},
      {"a stolen token", with({.open_signer = &stranger_}), denied,
       "the open request is not signed by the token's host"},
      {"a Machine without a grant", with({.token_request = [](TokenRequest &r) { r.machine = "m9"; }}),
       denied, "Machine m9 has no grant"},
      {"a Machine of another App",
       with({.token_request = [&](TokenRequest &r) { r.app_id = other_.app_id; }}), denied,
       "Machine m1 has no grant"},
      {"the launch spec of another App",
       [&] {
         return open(other_spec_, other1_, {other1_.header}, {.token_request = [&](TokenRequest &r) {
                       r.app_id = web_.app_id;
                       r.machine = "m1";
                     }});
       },
       denied, "the launch spec belongs to another App"},
      {"the launch spec of another Machine",
       [&] { return open(m2_, v2_, chain, {.token_request = [](TokenRequest &r) { r.machine = "m1"; }}); },
       denied, "the launch spec belongs to another Machine"},
      {"another launch spec than the token's", changed([&](OpenRequest &r) { r.spec = spec1_.envelope; }),
       denied, "the machine token is for another launch spec"},
      {"a launch spec that no trusted writer signed",
       [&] { return open(signed_spec(stranger_, web_, "m1", 3, v2_), v2_, chain); }, data_loss,
       "signed by a key that is not trusted here"},
      {"a changed launch spec", changed([](OpenRequest &r) { flip(r.spec, r.spec.size() / 2); }), data_loss,
       "signature is wrong"},
      {"an expired token", with({.before_open = [this] { now_ += kTokenLifetimeMs; }}), denied,
       "has expired"},
      {"a token of the future", with({.before_open = [this] { now_ -= 2 * 60 * 1000; }}), denied,
       "was issued in the future"},
      {"a forged token", with({.token = [](Bytes &t) { flip(t, 20); }}), denied,
       "the machine token is forged"},
      {"a changed body", changed([](OpenRequest &r) { flip(r.proof_body, 7); }), data_loss,
       "the manifest's body was changed"},
      {"a changed part", changed([](OpenRequest &r) { flip(r.proof_parts[0], 40); }), data_loss,
       "a part of the manifest was changed"},
      {"a changed record", changed([](OpenRequest &r) { flip(r.records[0].second, 60); }), data_loss,
       "the record of secret A was changed"},
      {"swapped records",
       changed([](OpenRequest &r) { std::swap(r.records[0].second, r.records[1].second); }), data_loss,
       "the record of secret A was changed"},
      {"a record of another App",
       changed([&](OpenRequest &r) { r.records[1].second = other1_.records.at("B"); }), data_loss,
       "the record of secret B was changed"},
      {"an older record", changed([&](OpenRequest &r) { r.records[0].second = v1_.records.at("A"); }),
       data_loss, "the record of secret A was changed"},
      {"a name that the manifest lacks", changed([](OpenRequest &r) { r.records[1].first = "C"; }), data_loss,
       "secret C is not in the manifest"},
      {"no part at all", changed([](OpenRequest &r) { r.proof_parts.clear(); }), data_loss,
       "secret A is not in the manifest"},
      {"another manifest than the launch spec's", changed([&](OpenRequest &r) {
         r.proof_header = v1_.header;
         r.proof_body = v1_.body;
         r.proof_parts = {v1_.part};
       }),
       data_loss, "the manifest is not the one that the launch spec names"},
      {"the manifest of another App", changed([&](OpenRequest &r) { r.proof_header = other1_.header; }),
       data_loss, "belongs to another App"},
      {"a forked header", [&] { return open(spec(web_, "m1", 3, fork), fork, {fork.header}); }, data_loss,
       "there are two manifests of version 2"},
      {"a head that was rolled back", [&] { return open(spec(web_, "m1", 3, v1_), v1_, {v1_.header}); },
       data_loss, "the vault's newest manifest is 1, but version 2 has been seen"},
      {"no header", [&] { return open(spec(web_, "m1", 3, v2_), v2_, {}); }, data_loss,
       "the vault's newest manifest is 0, but version 2 has been seen"},
      {"a gap in the chain", [&] { return open(spec(web_, "m1", 3, v4), v4, {v2_.header, v4.header}); },
       data_loss, "manifest header 4 does not chain"},
      {"a chain that starts too late", [&] { return open(spec(web_, "m1", 3, v4), v4, {v4.header}); },
       data_loss, "manifest header 4 does not follow version 2"},
      {"a header that follows another one",
       [&] { return open(spec(web_, "m1", 3, loose), loose, {loose.header}); }, data_loss,
       "manifest header 3 does not follow version 2"},
      {"a manifest beyond the head", [&] { return open(spec(web_, "m1", 3, v3), v3, chain); }, data_loss,
       "launch spec 3 names a manifest that is not in the chain"},
      {"a lower number", [&] { return open(spec(web_, "m1", 1, v2_), v2_, chain); }, denied,
       "launch spec 1 is not the newest one of Machine m1"},
  };
  std::map<std::string, std::string> by_text;
  std::set<std::string> outcomes;
  for (const Case &c : cases) {
    SCOPED_TRACE(c.what);
    const uint64_t now = now_;
    EXPECT_THAT(c.attempt(), Fails(c.code, c.text));
    now_ = now;
    by_text[c.text] += c.what;
    // The log has a reason, not only a code.
    const std::string outcome = logged().back().outcome;
    EXPECT_THAT(outcome, testing::Not(testing::AnyOf("ok", "permission_denied", "data_loss")));
    outcomes.insert(outcome);
  }
  EXPECT_GE(by_text.size(), 25u);
  EXPECT_GE(outcomes.size(), 18u) << testing::PrintToString(outcomes);
  // Not one of them has used anything up.
  opens_newest();
}

// P3 in one table: of ten requests one opens, and each refusal can be told from the others in the log.
TEST_P(KeyServiceTest, ExactlyTheRightRequestOpensAndEachOtherHasItsOwnReasonInTheLog) {
  const SignedSpec strangers = spec(web_, "m3", 1, v2_);  // another host, with a right of its own
  ASSERT_TRUE(ok(keys_->grant(web_.app_id, "m3", stranger_.public_key(), strangers.envelope)));
  struct Case {
    const char *what;
    std::function<bool()> opens;
    const char *outcome, *who;
  };
  const auto newest = [this](Spoil spoil) {
    return [this, spoil] { return open_newest(spoil).has_value(); };
  };
  const Case cases[] = {
      {"right", newest({}), "ok", "host"},
      {"replayed", [this] { return keys_->open(last_sent_).has_value(); }, "used", "host"},
      {"other host", newest({.open_signer = &stranger_}), "other_host", "host"},
      {"other App",
       [&] {
         return open(other_spec_, other1_, {other1_.header},
                     {.token_request =
                          [&](TokenRequest &r) {
                            r.app_id = web_.app_id;
                            r.machine = "m1";
                          }})
             .has_value();
       },
       "other_app", "host"},
      {"other Machine",
       [&] {
         return open(m2_, v2_, {v2_.header}, {.token_request = [](TokenRequest &r) { r.machine = "m1"; }})
             .has_value();
       },
       "other_machine", "host"},
      {"other launch spec", newest({.request = [&](OpenRequest &r) { r.spec = spec1_.envelope; }}),
       "other_spec", "host"},
      {"expired", newest({.before_open = [this] { now_ += kTokenLifetimeMs; }}), "expired", "host"},
      {"forged", newest({.token = [](Bytes &t) { flip(t, 20); }}), "forged", "unknown"},
      {"without host signature", newest({.sent = [](Bytes &b) { flip(b, b.size() - 1); }}), "not_signed",
       "unknown"},
      {"revoked", newest({.before_open = [this] { ASSERT_TRUE(ok(keys_->revoke(web_.app_id, "m1"))); }}),
       "revoked", "host"},
  };
  std::set<std::string> outcomes;
  int opened = 0;
  for (const Case &c : cases) {
    SCOPED_TRACE(c.what);
    const uint64_t now = now_;
    const size_t before = logged().size();
    const bool opens = c.opens();
    now_ = now;
    EXPECT_EQ(opens, std::string_view("right") == c.what);
    opened += opens;
    const std::vector<AuditEntry> all = logged();
    ASSERT_GT(all.size(), before);
    const AuditEntry &last = all.back();
    EXPECT_EQ(last.action, "open");
    EXPECT_EQ(last.outcome, c.outcome);
    EXPECT_EQ(last.who, c.who);
    EXPECT_TRUE(outcomes.insert(last.outcome).second);
    if (last.outcome == "forged") continue;  // nothing that it says is believed
    EXPECT_EQ(last.app, "web");
    EXPECT_EQ(last.app_id, hex(web_.app_id));
    EXPECT_EQ(last.machine, "m1");
    EXPECT_EQ(last.instance, "instance");
    if (last.who != "host") continue;
    EXPECT_EQ(last.host, hex((last.outcome == "other_host" ? stranger_ : host_).public_key()));
  }
  EXPECT_EQ(opened, 1);
  EXPECT_EQ(outcomes.size(), std::size(cases));
  const auto report = verify_audit(logs());
  ASSERT_TRUE(ok(report));
  EXPECT_TRUE(report->findings.empty());
}

TEST_P(KeyServiceTest, WhatWasGrantedIssuedOpenedRevokedAndDestroyedIsInTheLogAndNoValue) {
  opens_newest();
  ASSERT_TRUE(ok(keys_->revoke(web_.app_id, "m1")));
  ASSERT_TRUE(ok(keys_->destroy_app("web")));
  std::vector<std::string> actions;
  for (const AuditEntry &e : logged()) {
    actions.push_back(e.action + " " + e.app + (e.machine.empty() ? "" : " " + e.machine));
    EXPECT_EQ(e.outcome, "ok");
  }
  EXPECT_THAT(actions, testing::ElementsAre("create key web", "create key other", "grant web m1",
                                            "grant web m2", "grant other o1", "token web m1", "open web m1",
                                            "revoke web m1", "destroy key web"));
  const AuditEntry open = logged().at(6);
  EXPECT_EQ(open.count, 2u);
  EXPECT_EQ(open.spec, 2u);
  EXPECT_EQ(open.version, 2u);
  std::ifstream in(log_.file());
  const std::string text(std::istreambuf_iterator<char>(in), {});
  EXPECT_THAT(text, testing::HasSubstr("\"web\""));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("second a")));
}

TEST_P(KeyServiceTest, WhatCannotBeLoggedIsNotOpenedAndNotGranted) {
  const fs::path kept = folder_.path() / "kept";
  const auto block = [&] {
    fs::rename(log_.file(), kept);
    fs::create_directory(log_.file());
  };
  const auto unblock = [&] {
    fs::remove(log_.file());
    fs::rename(kept, log_.file());
  };
  EXPECT_THAT(open_newest({.before_open = block}), Fails(ErrorCode::kUnavailable, "keys.log"));
  EXPECT_THAT(open_newest(), Fails(ErrorCode::kUnavailable, "keys.log"));
  const SignedSpec m3 = spec(web_, "m3", 1, v2_);
  EXPECT_THAT(keys_->grant(web_.app_id, "m3", host_.public_key(), m3.envelope),
              Fails(ErrorCode::kUnavailable, "keys.log"));
  EXPECT_THAT(keys_->create_app("third"), Fails(ErrorCode::kUnavailable, "keys.log"));
  EXPECT_THAT(keys_->destroy_app("web"), Fails(ErrorCode::kUnavailable, "keys.log"));
  // What ends a right is done all the same.
  EXPECT_THAT(keys_->revoke(web_.app_id, "m2"), Fails(ErrorCode::kUnavailable, "keys.log"));
  unblock();
  opens_newest();
  EXPECT_THAT(open(m3, v2_, {v2_.header}), Fails(ErrorCode::kPermissionDenied, "has no grant"));
  EXPECT_THAT(open(m2_, v2_, {v2_.header}), Fails(ErrorCode::kPermissionDenied, "was revoked"));
}

TEST_P(KeyServiceTest, ARequestWithoutTheHostsSignatureOpensNothing) {
  const size_t signature = 64;
  for (const size_t from_end : {size_t{1}, signature, signature + 1, signature + 33, signature + 40})
    EXPECT_THAT(open_newest({.sent = [&](Bytes &b) { flip(b, b.size() - from_end); }}),
                Fails(ErrorCode::kPermissionDenied, "the open request is not signed by the token's host"))
        << from_end;
  EXPECT_THAT(open_newest({.sent = [&](Bytes &b) { b.resize(b.size() - signature); }}),
              Fails(ErrorCode::kPermissionDenied, "the open request is not signed by the token's host"));
  EXPECT_THAT(open_newest({.sent = [](Bytes &b) { b.clear(); }}), Fails(ErrorCode::kDataLoss, "malformed"));
  opens_newest();
}

TEST_P(KeyServiceTest, ASignatureForOnePurposeSaysNothingForAnother) {
  TokenRequest asked;
  asked.app_id = web_.app_id;
  asked.machine = "m1";
  asked.spec = spec2_.hash;
  EXPECT_THAT(keys_->token(sign(host_, kOpenRequestLabel, encode(asked))),
              Fails(ErrorCode::kPermissionDenied, "the token request is not signed by the host"));
}

TEST_P(KeyServiceTest, EveryFlippedByteOfAnOpenRequestOpensNothing) {
  const auto opened = open_newest();
  ASSERT_TRUE(ok(opened));
  const size_t size = last_sent_.size();
  for (size_t at = 0; at < size; at += 7) {
    // A fresh token each time, so that "used before" is not the reason.
    const auto refused = open_newest({.sent = [at](Bytes &b) { flip(b, at); }});
    EXPECT_FALSE(refused) << "byte " << at;
  }
  opens_newest();
}

TEST_P(KeyServiceTest, ATokenIsGoodForOneOpen) {
  ASSERT_TRUE(ok(open_newest()));
  EXPECT_THAT(keys_->open(last_sent_),
              Fails(ErrorCode::kPermissionDenied, "the machine token was used before"));
  Bytes kept;
  ASSERT_TRUE(ok(open_newest({.token = [&](Bytes &t) { kept = t; }})));
  EXPECT_THAT(open_newest({.token = [&](Bytes &t) { t = kept; }}),
              Fails(ErrorCode::kPermissionDenied, "the machine token was used before"));
  const Bytes sent = last_sent_;
  reopen();  // also after a crash right behind the acknowledgement
  EXPECT_THAT(keys_->open(sent), Fails(ErrorCode::kPermissionDenied, "the machine token was used before"));
  opens_newest();
}

TEST_P(KeyServiceTest, ATokenIsGoodForOneOpenAlsoInTwoProcesses) {
  KeyService second = service();
  ASSERT_TRUE(ok(open_newest()));
  EXPECT_THAT(second.open(last_sent_), Fails(ErrorCode::kPermissionDenied, "used before"));
}

TEST_P(KeyServiceTest, MarkersOfUsedTokensGoWhenTheTokensHaveExpired) {
  const auto markers = [this] {
    int n = 0;
    EXPECT_TRUE(
        ok(open_store().list("app-" + hex(web_.app_id), "used/", false, [&](Stored) { return ++n > 0; })));
    return n;
  };
  for (int i = 0; i < 3; ++i) opens_newest();
  EXPECT_EQ(markers(), 3);
  const Bytes old = last_sent_;
  now_ += kTokenLifetimeMs + 2 * 60 * 1000;
  opens_newest();
  EXPECT_EQ(markers(), 1);
  EXPECT_THAT(keys_->open(old), Fails(ErrorCode::kPermissionDenied, "has expired"));
}

TEST_P(KeyServiceTest, ATokenLivesAsLongAsItSays) {
  ASSERT_TRUE(ok(open_newest({.before_open = [this] { now_ += kTokenLifetimeMs - 1; }})));
}

// ---- freshness ----

TEST_P(KeyServiceTest, TheLaunchSpecBeforeTheNewestOpensAndTheOneBeforeThatDoesNot) {
  const Version v3 = version(web_, 3, v2_.hash, {{"A", "third a"}});
  const SignedSpec spec3 = spec(web_, "m1", 3, v3, spec2_.hash);
  ASSERT_TRUE(ok(open(spec1_, v1_, {v1_.header})));  // of the grant
  opens_newest();
  const auto undone = open(spec1_, v1_, {});  // its `undo`; needs no header
  ASSERT_TRUE(ok(undone));
  EXPECT_EQ(undone->at("A"), "first a");
  opens_newest();  // the way back is no step back
  ASSERT_TRUE(ok(open(spec3, v3, {v2_.header, v3.header})));
  opens_newest();
  EXPECT_THAT(open(spec1_, v1_, {v2_.header, v3.header}),
              Fails(ErrorCode::kPermissionDenied, "launch spec 1 is not the newest one"));
  reopen();
  EXPECT_THAT(open(spec1_, v1_, {v2_.header, v3.header}),
              Fails(ErrorCode::kPermissionDenied, "launch spec 1 is not the newest one"));
}

TEST_P(KeyServiceTest, AnOpenAdvancesTheNewestSeenHeader) {
  const Version v3 = version(web_, 3, v2_.hash, {{"A", "third a"}});
  ASSERT_TRUE(ok(open(spec(web_, "m1", 3, v3), v3, {v2_.header, v3.header})));
  reopen();
  const auto seen = keys_->seen(web_.app_id);
  ASSERT_TRUE(ok(seen));
  ASSERT_TRUE(*seen);
  EXPECT_EQ((*seen)->version, 3u);
  EXPECT_EQ((*seen)->header, v3.hash);
}

TEST_P(KeyServiceTest, ALaunchSpecMayNameAnAncestorOfTheHead) {
  const auto older = open(spec(web_, "m1", 3, v1_), v1_, {v1_.header, v2_.header});
  ASSERT_TRUE(ok(older));
  EXPECT_EQ(older->at("A"), "first a");
}

TEST_P(KeyServiceTest, ReportedHeadersOnlyGoForward) {
  const Version v3 = version(web_, 3, v2_.hash, {{"A", "third a"}});
  const Version fork = version(web_, 3, v2_.hash, {{"A", "forked a"}});
  const Version v5 = version(web_, 5, v3.hash, {});
  EXPECT_THAT(keys_->advance(web_.app_id, {v1_.header}), Fails(ErrorCode::kDataLoss, "has been seen"));
  EXPECT_THAT(keys_->advance(web_.app_id, {v5.header}), Fails(ErrorCode::kDataLoss, "does not follow"));
  EXPECT_THAT(keys_->advance(web_.app_id, {other1_.header}), Fails(ErrorCode::kDataLoss, "another App"));
  ASSERT_TRUE(ok(keys_->advance(web_.app_id, {v3.header})));
  ASSERT_TRUE(ok(keys_->advance(web_.app_id, {v3.header})));  // again is fine
  reopen();
  EXPECT_THAT(keys_->advance(web_.app_id, {fork.header}),
              Fails(ErrorCode::kDataLoss, "two manifests of version 3"));
  EXPECT_THAT(keys_->advance(web_.app_id, {v2_.header}), Fails(ErrorCode::kDataLoss, "has been seen"));
}

// ---- grants ----

TEST_P(KeyServiceTest, RevokedIsRevokedAtOnceAndForGood) {
  // Between token and open: the token is no way around it.
  EXPECT_THAT(open_newest({.before_open = [this] { ASSERT_TRUE(ok(keys_->revoke(web_.app_id, "m1"))); }}),
              Fails(ErrorCode::kPermissionDenied, "the grant of Machine m1 was revoked"));
  EXPECT_THAT(open_newest(), Fails(ErrorCode::kPermissionDenied, "the grant of Machine m1 was revoked"));
  reopen();
  EXPECT_THAT(open_newest(), Fails(ErrorCode::kPermissionDenied, "the grant of Machine m1 was revoked"));
  EXPECT_THAT(keys_->grant(web_.app_id, "m1", host_.public_key(), spec2_.envelope),
              Fails(ErrorCode::kPermissionDenied, "the grant of Machine m1 was revoked"));
  EXPECT_TRUE(ok(keys_->revoke(web_.app_id, "m1")));
  EXPECT_TRUE(ok(open(m2_, v2_, {v2_.header})));  // the other Machine goes on
}

TEST_P(KeyServiceTest, AGrantIsMadeForItsOwnMachineAndHostOnly) {
  const SignedSpec m3 = spec(web_, "m3", 1, v2_);
  EXPECT_THAT(keys_->grant(web_.app_id, "m4", host_.public_key(), m3.envelope),
              Fails(ErrorCode::kPermissionDenied, "belongs to another Machine"));
  EXPECT_THAT(keys_->grant(other_.app_id, "m3", host_.public_key(), m3.envelope),
              Fails(ErrorCode::kPermissionDenied, "belongs to another App"));
  EXPECT_THAT(keys_->grant(web_.app_id, "m3", host_.public_key(),
                           signed_spec(stranger_, web_, "m3", 1, v2_).envelope),
              Fails(ErrorCode::kDataLoss, "not trusted"));
  EXPECT_THAT(open(m3, v2_, {v2_.header}), Fails(ErrorCode::kPermissionDenied, "has no grant"));
  ASSERT_TRUE(ok(keys_->grant(web_.app_id, "m3", host_.public_key(), m3.envelope)));
  EXPECT_TRUE(ok(keys_->grant(web_.app_id, "m3", host_.public_key(), m3.envelope)));  // again is fine
  EXPECT_THAT(keys_->grant(web_.app_id, "m3", stranger_.public_key(), m3.envelope),
              Fails(ErrorCode::kPermissionDenied, "is granted to another host"));
  EXPECT_TRUE(ok(open(m3, v2_, {v2_.header})));
}

TEST_P(KeyServiceTest, ADestroyedAppOpensNothingAndItsNameGetsANewId) {
  const auto prepared = [&] { ASSERT_TRUE(ok(keys_->destroy_app("web"))); };
  EXPECT_THAT(open_newest({.before_open = prepared}), Fails(ErrorCode::kPermissionDenied, "has no grant"));
  reopen();
  EXPECT_THAT(open_newest(), Fails(ErrorCode::kPermissionDenied, "has no grant"));
  EXPECT_THAT(keys_->grant(web_.app_id, "m1", host_.public_key(), spec2_.envelope),
              Fails(ErrorCode::kPermissionDenied, "no key of this App"));
  const AppKeyRecord again = new_app("web");
  EXPECT_NE(again.app_id, web_.app_id);
  EXPECT_EQ(again.replaces, web_.app_id);
  EXPECT_NE(again.public_key, web_.public_key);
  EXPECT_TRUE(ok(open(other_spec_, other1_, {other1_.header})));
}

TEST_P(KeyServiceTest, TheSameAppIsCreatedOnce) {
  const AppKeyRecord again = new_app("web");
  EXPECT_EQ(again.app_id, web_.app_id);
  EXPECT_EQ(again.public_key, web_.public_key);
}

INSTANTIATE_TEST_SUITE_P(Store, KeyServiceTest,
                         testing::Values("storage-sqlite", "storage-file", "storage-sqlite+socket"),
                         [](const auto &test) {
                           std::string name = std::string(test.param).substr(8);
                           std::ranges::replace(name, '+', '_');
                           return name;
                         });

}  // namespace
}  // namespace coffer
