/* A device over HTTPS in C with libcurl, OpenSSL and cJSON: it enrols and renews over EST (RFC 7030), and polls.
 *
 *   LIBRARIES="libcurl libcrypto libcjson"
 *   gcc -Wall -Wextra -o curl_device curl_device.c $(pkg-config --cflags --libs $LIBRARIES)
 *   ./curl_device FOLDER
 *
 * device.h has what it does; this file has how it speaks. */
#include "device.h"
#include <openssl/pkcs7.h>

enum { LOOK_MS = 1000 }; /* between two looks for what waits, at least */

static int64_t next_look;

struct buffer { char *bytes; size_t length; };

static size_t collect(char *piece, size_t one, size_t length, void *user) {
  struct buffer *buffer = user;
  (void)one;
  if (buffer->length + length > 1 << 21)
    return 0; /* no answer is as long: what a device is told has bounds */
  buffer->bytes = realloc(buffer->bytes, buffer->length + length + 1);
  memcpy(buffer->bytes + buffer->length, piece, length);
  buffer->length += length;
  buffer->bytes[buffer->length] = 0;
  return length;
}

/* A request with JSON: its status, or 0 as `request`. Takes `body`; the caller deletes the answer, or gives NULL. */
static long call(const char *method, const char *where, cJSON *body, cJSON **answer) {
  struct buffer got = {0};
  char *sent = body == NULL ? NULL : cJSON_PrintUnformatted(body), path[256];
  snprintf(path, sizeof path, "/device/v1/%s", where);
  long status = request(method, path, "Content-Type: application/json", sent, collect, &got);
  if (got.bytes != NULL && (status >= 400 || strstr(got.bytes, "\"rejected\"") != NULL))
    printf("refused %s\n", got.bytes);
  if (answer != NULL)
    *answer = got.bytes == NULL ? NULL : cJSON_Parse(got.bytes);
  cJSON_Delete(body);
  free(sent);
  free(got.bytes);
  return status;
}

static bool tell(const char *where, cJSON *body) {
  return call(strcmp(where, "twin/reported") == 0 ? "PATCH" : "POST", where, body, NULL) != 0;
}

static void meanwhile(void) { sample(); }

/* --- credentials -------------------------------------------------------------------------------------------------- */

/* Saves the certificates of a PKCS #7 answer with their key; EST does not say when to renew, so it is at two thirds. */
static bool keep_pkcs7(const char *file, const char *key, struct buffer *got) {
  BIO *base64 = BIO_new(BIO_f_base64()), *in = BIO_push(base64, BIO_new_mem_buf(got->bytes, (int)got->length));
  PKCS7 *answer = d2i_PKCS7_bio(in, NULL);
  STACK_OF(X509) *found = answer != NULL && PKCS7_type_is_signed(answer) ? answer->d.sign->cert : NULL;
  struct tm begin, end;
  bool good = sk_X509_num(found) > 0;
  if (good) {
    BIO *out = BIO_new(BIO_s_mem());
    for (int at = 0; at < sk_X509_num(found); at++)
      PEM_write_bio_X509(out, sk_X509_value(found, at));
    ASN1_TIME_to_tm(X509_get0_notBefore(sk_X509_value(found, 0)), &begin);
    ASN1_TIME_to_tm(X509_get0_notAfter(sk_X509_value(found, 0)), &end);
    double from = (double)timegm(&begin);
    char *certificates = pem_of(out);
    keep(file, key, certificates, (from + ((double)timegm(&end) - from) * 2 / 3) * 1000);
    free(certificates);
  }
  PKCS7_free(answer);
  BIO_free_all(in);
  return good;
}

/* Asks for a certificate for a key: the request is DER in base64, which is its PEM without first and last line. */
static bool get_certificate(const char *path, const char *key, const char *file) {
  struct buffer got = {0};
  char *csr = make_request(key), *begin = strchr(csr, '\n') + 1, *end = strstr(begin, "-----END");
  *end = 0;
  long status = request("POST", path, "Content-Type: application/pkcs10", begin, collect, &got);
  bool good = status == 200 && got.bytes != NULL && keep_pkcs7(file, key, &got);
  if (!good) /* 202: an operator has to decide; else a person has to look */
    printf("no certificate: %ld\n", status);
  free(got.bytes);
  free(csr);
  return good;
}

/* The first certificate, by the factory's token. */
static bool enroll(void) {
  char credentials[256];
  open_connection(NULL);
  snprintf(credentials, sizeof credentials, "%s:%s", name, text(factory, "token"));
  curl_easy_setopt(curl, CURLOPT_USERPWD, credentials);
  if (!get_certificate("/.well-known/est/simpleenroll", first_key(), "device.pem"))
    return false;
  puts("enrolled");
  return true;
}

/* The next certificate, with a new key; the old one stays until that works. */
static void renew(void) {
  char *key = make_key();
  reconnect = get_certificate("/.well-known/est/simplereenroll", key, "next.pem");
  free(key);
}

/* --- the conversation --------------------------------------------------------------------------------------------- */

/* Sends the oldest readings; those that are stored, or refused for good, are dropped. */
static bool send_readings(void) {
  while (waiting > 0) {
    int count = waiting < BATCH ? waiting : BATCH;
    if (!tell("telemetry", readings(count)))
      return false;
    drop(count);
  }
  return true;
}

/* Handles all that waits for the device; the server answers at once, or when there is something. */
static bool look(int wait_s) {
  char path[80];
  cJSON *waits = NULL, *twin = NULL;
  snprintf(path, sizeof path, "inbox?wait=%d&since=%.0f", wait_s, number(state, "desired_version"));
  bool good = call("GET", path, NULL, &waits) != 0;
  const cJSON *each, *change = get(waits, "desired");
  if (good && change != NULL && !patched(change, &good)) { /* versions between are missing */
    good = call("GET", "twin", NULL, &twin) == 200;
    good = good && follow(number(twin, "desired_version"), copy(get(twin, "desired")));
  }
  cJSON_ArrayForEach(each, get(get(waits, "commands"), "commands")) good = good && command(each);
  if (good && get(waits, "firmware") != NULL)
    good = offered(get(waits, "firmware"));
  cJSON_Delete(twin);
  cJSON_Delete(waits);
  return good;
}

static void serve(const char *credential) {
  open_connection(credential);
  if (!tell("status", cJSON_Parse("{\"state\": \"online\"}")))
    return;
  connected(credential);
  bool good = report();
  while (good && !stopping && !reconnect && !reboot) {
    failures = 0;
    sample();
    good = send_readings();
    if (good && renewal_is_due())
      renew();
    int64_t now = ticks_ms(), left = next_sample - now;
    if (!good || reconnect)
      continue;
    if ((left >= 1000 || *pending) && now >= next_look) {
      next_look = now + LOOK_MS;
      good = look(*pending ? 0 : left < 55000 ? (int)(left / 1000) : 55);
    } else if (left > 0)
      wait_ms(now < next_look && next_look - now < left ? next_look - now : left);
  }
}

int main(int argc, char **argv) { return run(argc, argv); }
