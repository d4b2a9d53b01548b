// What the suite cannot say: the bindings of inject-file, and base64.
#include <coffer/injector.h>
#include <gmock/gmock.h>

#include "test_host.h"

namespace coffer::conformance {
namespace {

using testing::HasSubstr;
using testing::Not;

class InjectFile : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    plugin_ = open();
    table_ = plugin_->table<coffer_injector>(COFFER_INJECTOR_ID);
  }
  void TearDown() override {
    plugin_.reset();
    PluginTest::TearDown();
  }

  struct File {
    std::string path, content;
    uint32_t flags = 0, mode = 0, uid = 0, gid = 0;
  };
  struct Answer {
    coffer_status status = COFFER_UNKNOWN;
    std::string message;
    std::vector<File> files;
  };

  Answer render(const std::string &bindings, const std::string &value = "") const {
    const coffer_secret secret{sizeof(coffer_secret), 0, str("KEY"), bytes(value)};
    const coffer_secret *list[] = {&secret};
    coffer_inject_request request{};
    request.struct_size = sizeof request;
    request.vias = COFFER_VIA_TMPFS;
    request.bindings_json = str(bindings);
    request.secrets = list;
    request.n_secrets = 1;
    Answer out;
    TestCall c;
    out.status = table_->render(
        plugin_->raw(), c, &request,
        [](void *ctx, const coffer_delivery *d) noexcept {
          static_cast<Answer *>(ctx)->files.push_back(
              {std::string(view(d->name)), std::string(view(d->value)), d->flags, d->mode, d->uid, d->gid});
          return 0;
        },
        &out);
    out.message = c.message();
    return out;
  }
  Answer decode(const std::string &value) const {
    return render(R"({"files":[{"guest_path":"/run/key","secret":"KEY","encoding":"base64"}]})", value);
  }

 private:
  std::unique_ptr<OpenInstance> plugin_;
  const coffer_injector *table_ = nullptr;
};

TEST_F(InjectFile, ARawSecretIsItsExactBytes) {
  std::string value;
  for (int i = 0; i < 256; ++i) value.push_back(static_cast<char>(i));
  const Answer a = render(R"({"files":[{"guest_path":"/run/key","secret":"KEY"}]})", value);
  ASSERT_EQ(a.files.size(), 1u) << a.message;
  EXPECT_EQ(a.files[0].content, value);
  EXPECT_EQ(a.files[0].mode, 0400u);
  EXPECT_EQ(a.files[0].flags, COFFER_DLV_SECRET);
}

TEST_F(InjectFile, ModeAndOwnerAreThoseOfTheBindings) {
  const Answer a = render(
      R"({"files":[{"guest_path":"/run/key","secret":"KEY","mode":288,"uid":1000,"gid":0,"env":true}]})",
      "x");
  ASSERT_EQ(a.files.size(), 1u) << a.message;
  EXPECT_EQ(a.files[0].mode, 0440u);
  EXPECT_EQ(a.files[0].flags, COFFER_DLV_SECRET | COFFER_DLV_OWNER);
  EXPECT_EQ(a.files[0].uid, 1000u);
  EXPECT_EQ(a.files[0].gid, 0u);
}

TEST_F(InjectFile, WhatIsNoSecretCarriesNoSecretFlag) {
  const Answer a = render(R"({"files":[{"guest_path":"/etc/motd","value_base64":"aGk="}]})");
  ASSERT_EQ(a.files.size(), 1u) << a.message;
  EXPECT_EQ(a.files[0].content, "hi");
  EXPECT_EQ(a.files[0].flags, 0u);
}

TEST_F(InjectFile, OneSecretMayBeSeveralFiles) {
  const Answer a = render(
      R"({"files":[{"guest_path":"/a","secret":"KEY"},{"guest_path":"/b","secret":"KEY","encoding":"base64"}]})",
      "aGk=");
  ASSERT_EQ(a.files.size(), 2u) << a.message;
  EXPECT_EQ(a.files[0].content, "aGk=");
  EXPECT_EQ(a.files[1].content, "hi");
}

TEST_F(InjectFile, Base64IsDecodedWithBlanksAndLineEndsAnywhere) {
  // RFC 4648, section 10.
  for (const auto &[encoded, plain] :
       std::vector<std::pair<std::string, std::string>>{{"", ""},
                                                        {"Zg==", "f"},
                                                        {"Zm8=", "fo"},
                                                        {"Zm9v", "foo"},
                                                        {"Zm9vYg==", "foob"},
                                                        {"Zm9vYmE=", "fooba"},
                                                        {"Zm9vYmFy", "foobar"},
                                                        {" Z m\t9\r\nv \n", "foo"},
                                                        {"Z\ng=\n=\n", "f"},
                                                        {"+/+/", "\xfb\xff\xbf"}}) {
    const Answer a = decode(encoded);
    ASSERT_EQ(a.files.size(), 1u) << encoded << ": " << a.message;
    EXPECT_EQ(a.files[0].content, plain) << encoded;
  }
}

TEST_F(InjectFile, WrongBase64IsRefusedByPositionAndNotQuoted) {
  const std::vector<std::pair<std::string, size_t>> wrong = {{"Z", 2},
                                                             {"Zg", 3},
                                                             {"Zg=", 4},
                                                             {"Zm9vY", 6},
                                                             {"Zg===", 5},
                                                             {"=", 1},
                                                             {"Zg==Zg==", 5},
                                                             {"Zm9=v", 5},
                                                             {"Zm9v*mFy", 5},
                                                             {"Zm9v_w==", 5},
                                                             {"Zm9v\xc3\xa9", 5},
                                                             {"Zm8==", 5},
                                                             {std::string("Zm9v\0", 5), 5},
                                                             {"Zm9v====", 5}};
  for (const auto &[value, at] : wrong) {
    const Answer a = decode(value);
    EXPECT_EQ(a.status, COFFER_INVALID_ARGUMENT) << value;
    EXPECT_THAT(a.message, HasSubstr("secret KEY")) << value;
    EXPECT_THAT(a.message, HasSubstr("/run/key")) << value;
    EXPECT_THAT(a.message, HasSubstr("position " + std::to_string(at) + " ")) << value;
    if (value.size() > 3) {
      EXPECT_THAT(a.message, Not(HasSubstr(value.substr(0, 4)))) << value;
    }
    EXPECT_TRUE(a.files.empty()) << value;
  }
}

TEST_F(InjectFile, PathsThatWouldHurtAreRefused) {
  for (const std::string &path :
       {std::string("relative"), std::string(""), std::string("/"), std::string("/a/../b"),
        std::string("/a/./b"), std::string("/a//b"), std::string("/a/"), std::string("/a/.."),
        std::string("/a\\u0000b"), "/" + std::string(4095, 'x')}) {
    const Answer a = render(R"({"files":[{"guest_path":")" + path + R"(","secret":"KEY"}]})", "x");
    EXPECT_EQ(a.status, COFFER_INVALID_ARGUMENT) << path.substr(0, 20);
    EXPECT_TRUE(a.files.empty());
  }
}

TEST_F(InjectFile, WrongBindingsAreRefusedByPosition) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {R"({"guest_path":"/a","secret":"KEY","value_base64":"eA=="})", "files[1]"},
      {R"({"guest_path":"/a"})", "files[1]"},
      {R"({"secret":"KEY"})", "files[1].guest_path"},
      {R"({"guest_path":"/a","secret":"KEY","mode":512})", "files[1].mode"},
      {R"({"guest_path":"/a","secret":"KEY","mode":-1})", "files[1].mode"},
      {R"({"guest_path":"/a","secret":"KEY","mode":"0400"})", "files[1].mode"},
      {R"({"guest_path":"/a","secret":"KEY","mode":4.5})", "files[1].mode"},
      {R"({"guest_path":"/a","secret":"KEY","mode":true})", "files[1].mode"},
      {R"({"guest_path":"/a","secret":"KEY","uid":1})", "uid and gid"},
      {R"({"guest_path":"/a","secret":"KEY","uid":4294967295,"gid":0})", "files[1].uid"},
      {R"({"guest_path":"/a","secret":"KEY","uid":99999999999999999999,"gid":0})", "bindings"},
      {R"({"guest_path":"/a","secret":"KEY","encoding":"hex"})", "files[1].encoding"},
      {R"({"guest_path":"/a","secret":"KEY","env":1})", "files[1].env"},
      {R"({"guest_path":"/first","secret":"KEY"})", "files[1].guest_path is given twice"}};
  for (const auto &[file, where] : wrong) {
    const Answer a = render(R"({"files":[{"guest_path":"/first","secret":"KEY"},)" + file + "]}", "x");
    EXPECT_EQ(a.status, COFFER_INVALID_ARGUMENT) << file;
    EXPECT_THAT(a.message, HasSubstr(where)) << file;
    EXPECT_TRUE(a.files.empty()) << file;
  }
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_INJECTOR_ID); }
