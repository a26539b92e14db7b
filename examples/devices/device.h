/* What a device does, whatever it speaks: flash, readings, desired state, commands, signed firmware, HTTPS.
 *
 * curl_device.c and mosquitto_device.c include it, and add how a message goes to the server and comes from it. The
 * folder that they are started with is the device's flash. The factory writes factory.json, ca.pem (the CAs of the
 * fleet), trust.json (whose firmware it installs) and command.pub (whose commands it runs). The device adds device.pem,
 * state.json and image. docs/how-to/write-a-device.md explains each step. */
#define _GNU_SOURCE
#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE = 10000, BATCH = 100, RESULTS = 50, RETRY_MS = 500, LONGEST_RETRY_MS = 60000 };

struct reading { int64_t time, seq; double value; };

static struct reading queue[QUEUE]; /* those that wait for the network; a full queue drops its oldest */
static int first, waiting;
static cJSON *factory, *state, *command_keys;
static const char *name;
static int64_t seq, next_sample, next_renewal, retry_after_ms; /* by the monotonic clock, ms */
static CURL *curl;
static char pending[128]; /* what waits at the server, from its last answer over HTTP */
static int failures;      /* connections in a row that came to nothing */
static bool reconnect, reboot;
static volatile sig_atomic_t stopping;

/* What the program adds. `tell` sends a message to an address such as "twin/ack", takes its body, and is false where
 * the connection is lost. `meanwhile` is called during a download. `serve` returns when the connection is lost or
 * another one is wanted. */
static bool tell(const char *where, cJSON *body);
static void meanwhile(void);
static bool enroll(void);
static void serve(const char *credential);

/* --- the board ---------------------------------------------------------------------------------------------------- */

static int64_t clock_ms(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
static int64_t now_ms(void) { return clock_ms(CLOCK_REALTIME); }
static int64_t ticks_ms(void) { return clock_ms(CLOCK_MONOTONIC); }

/* The time of an RFC 3339 text in UTC. */
static int64_t ms(const char *text) {
  struct tm tm = {0};
  int milliseconds = 0;
  sscanf(text, "%d-%d-%dT%d:%d:%d.%3d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec,
         &milliseconds);
  tm.tm_year -= 1900;
  tm.tm_mon -= 1;
  return (int64_t)timegm(&tm) * 1000 + milliseconds;
}

static void *read_file(const char *path, size_t *length) {
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return NULL;
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  char *content = calloc(1, (size_t)size + 1);
  size_t got = fread(content, 1, (size_t)size, file);
  fclose(file);
  if (length != NULL)
    *length = got;
  return content;
}

/* Replaces a small file: after a loss of power the old or the new one is there, complete. */
static void write_file(const char *path, const char *content) {
  FILE *file = fopen("new", "wb");
  if (file == NULL || fputs(content, file) < 0 || fflush(file) != 0 || fsync(fileno(file)) != 0 || fclose(file) != 0 ||
      rename("new", path) != 0) {
    perror(path); /* without its flash the device is better dead than wrong */
    exit(1);
  }
}

static cJSON *read_json(const char *path) {
  char *text = read_file(path, NULL);
  cJSON *found = text == NULL ? NULL : cJSON_Parse(text);
  free(text);
  return found;
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static cJSON *get(const cJSON *object, const char *member) { return cJSON_GetObjectItemCaseSensitive(object, member); }
static double number(const cJSON *object, const char *member) {
  const cJSON *found = get(object, member);
  return cJSON_IsNumber(found) ? found->valuedouble : 0;
}
static const char *text(const cJSON *object, const char *member) {
  const char *found = cJSON_GetStringValue(get(object, member));
  return found == NULL ? "" : found;
}
static bool has(const cJSON *array, const char *value) {
  const cJSON *each;
  cJSON_ArrayForEach(each, array) if (cJSON_IsString(each) && strcmp(each->valuestring, value) == 0) return true;
  return false;
}
static void set(cJSON *object, const char *member, cJSON *value) {
  cJSON_DeleteItemFromObjectCaseSensitive(object, member);
  cJSON_AddItemToObject(object, member, value);
}
static cJSON *copy(const cJSON *item) { return item == NULL ? NULL : cJSON_Duplicate(item, true); }

/* Applies a merge patch (RFC 7396). */
static void merge(cJSON *base, const cJSON *patch) {
  const cJSON *each;
  cJSON_ArrayForEach(each, patch) {
    if (cJSON_IsObject(each)) {
      if (!cJSON_IsObject(get(base, each->string)))
        set(base, each->string, cJSON_CreateObject());
      merge(get(base, each->string), each);
    } else if (cJSON_IsNull(each))
      cJSON_DeleteItemFromObjectCaseSensitive(base, each->string);
    else
      set(base, each->string, copy(each));
  }
}

/* Writes what outlives a loss of power. */
static void save(void) {
  char *written = cJSON_PrintUnformatted(state);
  write_file("state.json", written);
  free(written);
}

/* What the server itself wants of every device: trust, renew. */
static const cJSON *wanted(const char *what) { return get(get(get(state, "desired"), "fleetcore"), what); }

/* --- signed documents --------------------------------------------------------------------------------------------- */

static const unsigned char SPKI[12] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

static void sha256(const void *content, size_t length, char hex[65]) {
  unsigned char digest[32];
  EVP_Digest(content, length, digest, NULL, EVP_sha256(), NULL);
  for (int at = 0; at < 32; at++)
    sprintf(hex + 2 * at, "%02x", digest[at]);
}

/* The bytes of a base64 text, with a zero after them. */
static unsigned char *decoded(const char *base64, size_t *length) {
  size_t size = strlen(base64);
  unsigned char *bytes = calloc(1, size / 4 * 3 + 4);
  int got = EVP_DecodeBlock(bytes, (const unsigned char *)base64, (int)size);
  while (got > 0 && size > 0 && base64[size - 1] == '=')
    got--, size--;
  *length = got < 0 ? 0 : (size_t)got;
  bytes[*length] = 0;
  return bytes;
}

/* Whether the key with this id has signed; the id is the SHA-256 of its SubjectPublicKeyInfo. */
static bool is_signed(const cJSON *key, const cJSON *signatures, const void *content, size_t length) {
  unsigned char info[sizeof SPKI + 32];
  char id[65];
  size_t size;
  bool good = false;
  unsigned char *raw = decoded(key->valuestring, &size);
  if (size == 32) {
    memcpy(info, SPKI, sizeof SPKI);
    memcpy(info + sizeof SPKI, raw, 32);
    sha256(info, sizeof info, id);
    EVP_PKEY *public = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, 32);
    const cJSON *each;
    cJSON_ArrayForEach(each, signatures) {
      EVP_MD_CTX *context = EVP_MD_CTX_new();
      unsigned char *bits = decoded(text(each, "sig"), &size);
      good |= strcmp(id, key->string) == 0 && EVP_DigestVerifyInit(context, NULL, NULL, NULL, public) == 1 &&
              EVP_DigestVerify(context, bits, size, content, length) == 1;
      free(bits);
      EVP_MD_CTX_free(context);
    }
    EVP_PKEY_free(public);
  }
  free(raw);
  return good;
}

/* The payload of a DSSE envelope that enough keys of the role have signed, with its digest; else NULL. */
static cJSON *opened(const cJSON *envelope, const char *kind, const cJSON *keys, const cJSON *role, char digest[65]) {
  const cJSON *key, *signatures = get(envelope, "signatures");
  size_t length;
  int found = 0;
  char type[80];
  unsigned char *payload = decoded(text(envelope, "payload"), &length);
  snprintf(type, sizeof type, "application/vnd.fleetcore.%s+json", kind);
  char *content = malloc(length + sizeof type + 64);
  size_t head = (size_t)sprintf(content, "DSSEv1 %zu %s %zu ", strlen(type), type, length);
  memcpy(content + head, payload, length);
  if (cJSON_GetArraySize(signatures) <= 16)
    cJSON_ArrayForEach(key, keys) if (has(get(role, "keys"), key->string))
      found += is_signed(key, signatures, content, head + length);
  sha256(payload, length, digest);
  cJSON *opened = found > 0 && found >= number(role, "threshold") ? cJSON_Parse((char *)payload) : NULL;
  free(content);
  free(payload);
  return opened;
}

/* A trust root that its own root keys have signed and, if it is not the factory's, those of the one before; that one
 * where it is not newer: an offer that comes again may have those that the device follows already. */
static cJSON *trust_of(const cJSON *envelope, const cJSON *before) {
  size_t length;
  char digest[65];
  unsigned char *payload = decoded(text(envelope, "payload"), &length);
  cJSON *trust = cJSON_Parse((char *)payload);
  if (before != NULL && number(trust, "version") <= number(before, "version")) {
    cJSON_Delete(trust);
    free(payload);
    return copy(before);
  }
  cJSON *signed_by_itself = opened(envelope, "trust", get(trust, "keys"), get(trust, "root"), digest);
  cJSON *signed_before =
      before == NULL ? copy(trust) : opened(envelope, "trust", get(before, "keys"), get(before, "root"), digest);
  bool follows = before == NULL || number(trust, "version") == number(before, "version") + 1;
  if (signed_by_itself == NULL || signed_before == NULL || !follows) {
    cJSON_Delete(trust);
    trust = NULL;
  }
  cJSON_Delete(signed_by_itself);
  cJSON_Delete(signed_before);
  free(payload);
  return trust;
}

static cJSON *trust_in_flash(void) {
  cJSON *envelope = read_json("trust.json"), *trust = trust_of(envelope, NULL);
  cJSON_Delete(envelope);
  if (trust == NULL) {
    fprintf(stderr, "trust.json is not a trust root\n");
    exit(1);
  }
  return trust;
}

/* --- HTTP --------------------------------------------------------------------------------------------------------- */

static size_t header(char *line, size_t one, size_t length, void *user) {
  static const char PENDING[] = "Fleetcore-Pending:", RETRY[] = "Retry-After:";
  (void)user;
  if (strncasecmp(line, PENDING, sizeof PENDING - 1) == 0)
    snprintf(pending, sizeof pending, "%.*s", (int)(length - sizeof PENDING), line + sizeof PENDING);
  if (strncasecmp(line, RETRY, sizeof RETRY - 1) == 0)
    retry_after_ms = atoi(line + sizeof RETRY - 1) * 1000;
  return one * length;
}

/* A connection with a certificate, or without one; it trusts only the fleet's CAs and checks the server's name. */
static void open_connection(const char *credential) {
  curl_easy_cleanup(curl);
  curl = curl_easy_init();
  curl_easy_setopt(curl, CURLOPT_CAINFO, "ca.pem");
  curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
  if (credential != NULL) {
    curl_easy_setopt(curl, CURLOPT_SSLCERT, credential);
    curl_easy_setopt(curl, CURLOPT_SSLKEY, credential);
  }
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https");
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L); /* a byte within 70 s, longer than the server may wait */
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 70L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, header);
}

/* The status of an answer; 0 where there is none, or where the same request may succeed later. `head` is a header. */
static long request(const char *method, const char *path, const char *head, const char *body, curl_write_callback write,
                    void *user) {
  char url[512];
  long status = 0;
  struct curl_slist *headers = curl_slist_append(NULL, head);
  snprintf(url, sizeof url, "%s%s", text(factory, "http"), path);
  *pending = 0;
  retry_after_ms = 0;
  curl_easy_setopt(curl, CURLOPT_URL, url);
  curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L);
  if (body != NULL)
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
  curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, write);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, user);
  CURLcode failed = curl_easy_perform(curl);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, NULL);
  curl_slist_free_all(headers);
  if (failed != CURLE_OK || status >= 400) /* most of 400 and above are not to be sent again */
    printf("%s %s: %ld %s\n", method, path, status, curl_easy_strerror(failed));
  bool later = status == 401 || status == 403 || status == 408 || status == 429 || status >= 500;
  return failed != CURLE_OK || later ? 0 : status;
}

/* --- credentials -------------------------------------------------------------------------------------------------- */

static char *pem_of(BIO *bio) {
  char *bytes, *pem;
  long length = BIO_get_mem_data(bio, &bytes);
  pem = strndup(bytes, (size_t)length);
  BIO_free(bio);
  return pem;
}

/* A new key, which never leaves the device, PEM. */
static char *make_key(void) {
  EVP_PKEY *key = EVP_EC_gen("P-256");
  BIO *bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
  EVP_PKEY_free(key);
  return pem_of(bio);
}

/* A certificate request for a key, PEM. */
static char *make_request(const char *pem) {
  BIO *in = BIO_new_mem_buf(pem, -1), *out = BIO_new(BIO_s_mem());
  EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, NULL, NULL);
  X509_REQ *csr = X509_REQ_new();
  X509_NAME *subject = X509_REQ_get_subject_name(csr);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
  X509_REQ_set_pubkey(csr, key);
  X509_REQ_sign(csr, key, EVP_sha256());
  PEM_write_bio_X509_REQ(out, csr);
  X509_REQ_free(csr);
  EVP_PKEY_free(key);
  BIO_free(in);
  return pem_of(out);
}

/* The key of the first certificate: saved before it is used, so that a repeat is the same request. */
static const char *first_key(void) {
  if (get(state, "enrolling") == NULL) {
    char *key = make_key();
    set(state, "enrolling", cJSON_CreateString(key));
    save();
    free(key);
  }
  return text(state, "enrolling");
}

/* Saves key and certificates in one file, so that they are never of two different requests. */
static void keep(const char *file, const char *key, const char *certificates, double renew_after) {
  size_t length = strlen(key) + strlen(certificates) + 1;
  char *both = malloc(length);
  snprintf(both, length, "%s%s", key, certificates);
  set(state, "renew_after", cJSON_CreateNumber(renew_after));
  if (strcmp(file, "next.pem") == 0)
    set(state, "renewing", wanted("renew") == NULL ? cJSON_CreateNull() : copy(wanted("renew")));
  save();
  write_file(file, both);
  free(both);
}

/* Whether it is time for the next certificate, or the fleet wants it; not again within an hour. */
static bool renewal_is_due(void) {
  const cJSON *value = wanted("renew");
  bool is_wanted = value != NULL && !cJSON_Compare(value, get(state, "renewed"), true);
  if ((!is_wanted && now_ms() < number(state, "renew_after")) || ticks_ms() < next_renewal)
    return false;
  next_renewal = ticks_ms() + 3600 * 1000;
  return true;
}

/* The server has accepted this certificate: only now the one before may go. */
static void connected(const char *credential) {
  if (strcmp(credential, "next.pem") == 0) {
    rename("next.pem", "device.pem");
    set(state, "renewed", copy(get(state, "renewing")));
    save();
  }
  remove("next.pem");
  if (get(state, "enrolling") != NULL) { /* what it enrolled with has done its work */
    cJSON_DeleteItemFromObject(state, "enrolling");
    save();
    cJSON_DeleteItemFromObject(factory, "token");
    char *written = cJSON_PrintUnformatted(factory);
    write_file("factory.json", written);
    free(written);
    remove("claim.key");
  }
  printf("online %s\n", credential);
}

/* --- readings ----------------------------------------------------------------------------------------------------- */

static void enqueue(struct reading reading) {
  if (waiting == QUEUE)
    first = (first + 1) % QUEUE, waiting--;
  queue[(first + waiting++) % QUEUE] = reading;
}

static cJSON *reading_json(const struct reading *reading) {
  cJSON *json = cJSON_CreateObject();
  cJSON_AddNumberToObject(json, "time", (double)reading->time);
  cJSON_AddNumberToObject(json, "seq", (double)reading->seq);
  cJSON_AddNumberToObject(cJSON_AddObjectToObject(json, "values"), "temperature", reading->value);
  return json;
}

/* The oldest readings, `count` at most. */
static cJSON *readings(int count) {
  cJSON *list = cJSON_CreateArray();
  for (int at = 0; at < count && at < waiting; at++)
    cJSON_AddItemToArray(list, reading_json(&queue[(first + at) % QUEUE]));
  return list;
}

static bool interval_is_good(void) {
  const cJSON *wish = get(get(state, "desired"), "interval_s");
  return wish == NULL || (cJSON_IsNumber(wish) && wish->valuedouble >= 0.05 && wish->valuedouble <= 86400);
}
static double interval_s(void) {
  const cJSON *wish = get(get(state, "desired"), "interval_s");
  return wish != NULL && interval_is_good() ? wish->valuedouble : 10;
}

/* Measures when it is time, and queues the reading. */
static void sample(void) {
  if (ticks_ms() < next_sample)
    return;
  next_sample = ticks_ms() + (int64_t)(interval_s() * 1000);
  struct reading reading = {now_ms(), ++seq, 15 + (double)(random() % 10000) / 1000};
  enqueue(reading);
  cJSON *json = reading_json(&reading);
  char *said = cJSON_PrintUnformatted(json);
  printf("reading %s\n", said);
  free(said);
  cJSON_Delete(json);
}

/* Waits, and measures meanwhile. */
static void wait_ms(int64_t duration) {
  int64_t until = ticks_ms() + duration, now;
  while (!stopping && (now = ticks_ms()) < until) {
    sample();
    int64_t left = until < next_sample ? until - now : next_sample - now;
    usleep((useconds_t)(left < 0 ? 0 : left > 1000 ? 1000000 : left * 1000));
  }
}

/* Drops the oldest readings: they are stored, or refused for good. */
static void drop(int count) {
  first = (first + count) % QUEUE;
  waiting -= count;
}

/* --- desired state ------------------------------------------------------------------------------------------------ */

/* Reports what is so. It is a merge patch: saying it again changes nothing. */
static bool report(void) {
  cJSON *said = cJSON_CreateObject(), *firmware = copy(get(state, "firmware")), *trust = trust_in_flash();
  cJSON_AddNumberToObject(said, "interval_s", interval_s());
  cJSON_AddNumberToObject(firmware, "trust", number(trust, "version"));
  cJSON_AddItemToObject(said, "firmware", firmware);
  cJSON *ours = cJSON_AddObjectToObject(said, "fleetcore"), *renewed = get(state, "renewed");
  const cJSON *bundle = wanted("trust");
  char *ca = read_file("ca.pem", NULL);
  if (bundle != NULL && strcmp(ca, text(bundle, "ca")) == 0) {
    cJSON *held = cJSON_AddObjectToObject(ours, "trust");
    cJSON_AddNumberToObject(held, "version", number(bundle, "version"));
    cJSON_AddStringToObject(held, "sha256", text(bundle, "sha256"));
  }
  if (renewed != NULL && !cJSON_IsNull(renewed))
    cJSON_AddItemToObject(ours, "renew", copy(renewed));
  free(ca);
  cJSON_Delete(trust);
  return tell("twin/reported", said);
}

/* Adopts a newer desired document, and says what it did with it. Takes `desired`. */
static bool follow(double version, cJSON *desired) {
  char digest[65];
  if (version <= number(state, "desired_version")) {
    cJSON_Delete(desired);
    return true;
  }
  double before = interval_s();
  set(state, "desired", desired);
  set(state, "desired_version", cJSON_CreateNumber(version));
  save();
  const cJSON *bundle = wanted("trust"), *each;
  sha256(text(bundle, "ca"), strlen(text(bundle, "ca")), digest);
  if (bundle != NULL && strcmp(digest, text(bundle, "sha256")) == 0)
    write_file("ca.pem", text(bundle, "ca"));
  if (interval_s() != before)
    next_sample = ticks_ms() + (int64_t)(interval_s() * 1000);
  next_renewal = 0;
  cJSON *ack = cJSON_CreateObject(), *refused = cJSON_AddObjectToObject(ack, "refused");
  cJSON_AddNumberToObject(ack, "version", version);
  cJSON_ArrayForEach(each, get(state, "desired")) {
    char pointer[260] = "/", *end = pointer + 1;
    bool known = strcmp(each->string, "interval_s") == 0;
    for (const char *at = each->string; *at && end < pointer + sizeof pointer - 2; at++) /* RFC 6901 */
      end = *at == '~' ? stpcpy(end, "~0") : *at == '/' ? stpcpy(end, "~1") : (*end = *at, end + 1);
    if (strcmp(each->string, "fleetcore") != 0 && (!known || !interval_is_good()))
      cJSON_AddStringToObject(cJSON_AddObjectToObject(refused, pointer), "code", known ? "out_of_range" : "unknown");
  }
  if (report())
    return tell("twin/ack", ack);
  cJSON_Delete(ack);
  return false;
}

/* Applies a change of the desired document, unless versions before it are missing; `good` as `follow`. */
static bool patched(const cJSON *change, bool *good) {
  double since = number(change, "since");
  if (since != 0 && since != number(state, "desired_version"))
    return false;
  cJSON *base = since == 0 ? cJSON_CreateObject() : copy(get(state, "desired"));
  merge(base, get(change, "patch"));
  *good = follow(number(change, "version"), base);
  return true;
}

/* --- commands ----------------------------------------------------------------------------------------------------- */

static cJSON *result_of(const char *status, const char *code) {
  cJSON *result = cJSON_CreateObject();
  cJSON_AddStringToObject(result, "status", status);
  if (code != NULL)
    cJSON_AddStringToObject(result, "code", code);
  return result;
}

static bool send_result(const char *id, cJSON *result) {
  char path[160];
  snprintf(path, sizeof path, "commands/%s/result", id);
  return tell(path, result);
}

/* Saves the result of a command; the oldest ones go. */
static void remember(const char *id, cJSON *result) {
  cJSON *results = get(state, "results");
  set(results, id, result);
  while (cJSON_GetArraySize(results) > RESULTS)
    cJSON_DeleteItemFromArray(results, 0);
  save();
}

/* The commands of this device. */
static cJSON *perform(const cJSON *order) {
  printf("command %s\n", text(order, "name"));
  if (strcmp(text(order, "name"), "identify") != 0)
    return result_of("rejected", "unknown_command");
  cJSON *result = result_of("succeeded", NULL), *times = get(get(order, "args"), "times");
  cJSON_AddNumberToObject(cJSON_AddObjectToObject(result, "output"), "blinked", times ? times->valuedouble : 1);
  return result;
}

/* Runs a command once, however often it comes. Only what is signed counts: for this device, new, and not too late. */
static bool command(const cJSON *body) {
  const char *id = text(body, "id"), *refusal = NULL;
  cJSON *sequences = get(state, "sequences");
  char digest[65];
  if (get(get(state, "results"), id) == NULL && cJSON_IsTrue(get(body, "cancel")))
    return send_result(id, result_of("cancelled", NULL)); /* what has begun here has also ended, and has a result */
  if (get(get(state, "results"), id) == NULL) {
    cJSON *order = opened(get(body, "signed"), "command", get(command_keys, "all"), get(command_keys, "role"), digest);
    if (order == NULL)
      refusal = "signature_invalid";
    else if (strcmp(text(order, "device"), name) != 0 || strcmp(text(order, "id"), id) != 0)
      refusal = "not_your_device";
    else if (number(order, "sequence") <= number(sequences, text(order, "lane")))
      refusal = "not_authorised"; /* a replay */
    else if (ms(text(order, "expires_at")) <= now_ms())
      refusal = "command_expired";
    if (refusal != NULL)
      remember(id, result_of("rejected", refusal));
    else {
      /* Saved before it runs: a loss of power in the middle makes this the answer, not a second run. */
      set(sequences, text(order, "lane"), cJSON_CreateNumber(number(order, "sequence")));
      remember(id, result_of("failed", "interrupted"));
      bool told = send_result(id, result_of("accepted", NULL));
      remember(id, perform(order));
      if (!told) {
        cJSON_Delete(order);
        return false;
      }
    }
    cJSON_Delete(order);
  }
  return send_result(id, copy(get(get(state, "results"), id)));
}

/* --- firmware ----------------------------------------------------------------------------------------------------- */

static bool status(const cJSON *offer, const char *said, const char *member, const char *value) {
  cJSON *body = cJSON_CreateObject();
  cJSON_AddStringToObject(body, "execution", text(offer, "execution"));
  cJSON_AddStringToObject(body, "campaign", text(offer, "campaign"));
  cJSON_AddStringToObject(body, "state", said);
  if (member != NULL)
    cJSON_AddStringToObject(body, member, value);
  printf("firmware %s %s\n", said, value == NULL ? "" : value);
  return tell("firmware/status", body);
}

/* Whether this device may install the image now: a code, or NULL. Unknown members may forbid what it is about to do. */
static const char *manifest_refused(const cJSON *manifest) {
  static const char *const MEMBERS[] = {"format", "name", "version", "seq", "min_seq", "models", "size", "sha256",
                                        "created", "expires", "requires", "chunks", "component", "sbom"};
  const cJSON *running = get(state, "firmware"), *each;
  cJSON_ArrayForEach(each, manifest) {
    bool known = false;
    for (size_t at = 0; at < sizeof MEMBERS / sizeof *MEMBERS; at++)
      known |= strcmp(each->string, MEMBERS[at]) == 0;
    if (!known)
      return "schema_invalid";
  }
  if (strcmp(text(manifest, "format"), "fleetcore.firmware/1") != 0)
    return "schema_invalid";
  if (!has(get(manifest, "models"), text(factory, "model")) ||
      (get(manifest, "component") != NULL && strcmp(text(manifest, "component"), "main") != 0))
    return "model_mismatch";
  if (ms(text(manifest, "expires")) <= now_ms())
    return "manifest_expired";
  if (number(manifest, "seq") < number(running, "highest_seq") ||
      (number(manifest, "seq") == number(running, "seq") &&
       strcmp(text(manifest, "sha256"), text(running, "sha256")) != 0))
    return "rollback_refused";
  if (get(get(manifest, "requires"), "components") != NULL)
    return "requires_unmet"; /* this device has one component */
  return number(get(manifest, "requires"), "seq") > number(running, "seq") ? "requires_unmet" : NULL;
}

/* The maker signed that the image is genuine, the fleet that it is for this device now: a code, or NULL. */
static const char *offer_refused(const cJSON *offer, cJSON **manifest) {
  const char *refusal = NULL;
  const cJSON *envelope;
  char digest[65], ignored[65];
  cJSON *trust = trust_in_flash();
  cJSON_ArrayForEach(envelope, get(offer, "trust")) {
    cJSON *next = trust_of(envelope, trust);
    if (next == NULL) {
      cJSON_Delete(trust);
      return "signature_invalid";
    }
    if (number(next, "version") == number(trust, "version")) {
      cJSON_Delete(next);
      continue;
    }
    char *written = cJSON_PrintUnformatted(envelope);
    write_file("trust.json", written);
    free(written);
    cJSON_Delete(trust);
    trust = next;
  }
  const cJSON *role = get(get(trust, "models"), text(factory, "model"));
  role = role == NULL ? get(trust, "firmware") : role;
  *manifest = opened(get(offer, "manifest"), "firmware", get(trust, "keys"), role, digest);
  role = get(command_keys, "role");
  cJSON *given = opened(get(offer, "assignment"), "assignment", get(command_keys, "all"), role, ignored);
  if (ms(text(trust, "expires")) <= now_ms())
    refusal = "trust_expired";
  else if (*manifest == NULL || given == NULL)
    refusal = "signature_invalid";
  else if ((refusal = manifest_refused(*manifest)) != NULL)
    ;
  else if (strcmp(text(given, "device"), name) != 0 || strcmp(text(given, "manifest_sha256"), digest) != 0 ||
           strcmp(text(given, "execution"), text(offer, "execution")) != 0 ||
           strcmp(text(given, "campaign"), text(offer, "campaign")) != 0 ||
           number(given, "seq") != number(*manifest, "seq"))
    refusal = "signature_invalid";
  else if (ms(text(given, "not_after")) <= now_ms())
    refusal = "too_late";
  cJSON_Delete(given);
  cJSON_Delete(trust);
  return refusal;
}

struct image { FILE *file; long size; };

static size_t store(char *piece, size_t one, size_t length, void *user) {
  struct image *image = user;
  long status = 0;
  meanwhile();
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (status != 206 || ftell(image->file) + (long)length > image->size)
    return 0; /* not the image; endless data ends here */
  return fwrite(piece, one, length, image->file);
}

/* Loads what is missing of the image into image.part, and verifies the whole: a code, "" to be tried again, or NULL. */
static const char *download(const cJSON *offer, const cJSON *manifest) {
  char range[48], digest[65];
  const char *expected = text(manifest, "sha256");
  struct image image = {NULL, (long)number(manifest, "size")};
  if (strcmp(text(state, "loading"), expected) != 0) {
    remove("image.part");
    set(state, "loading", cJSON_CreateString(expected));
    save();
  }
  image.file = fopen("image.part", "ab");
  fseek(image.file, 0, SEEK_END);
  long start = ftell(image.file), answered = 206;
  snprintf(range, sizeof range, "Range: bytes=%ld-", start);
  if (start < image.size)
    answered = request("GET", text(offer, "path"), range, NULL, store, &image);
  fflush(image.file);
  fsync(fileno(image.file));
  fclose(image.file);
  if (answered != 206)
    return "";
  size_t length;
  char *content = read_file("image.part", &length); /* a board hashes its flash piece by piece */
  sha256(content, length, digest);
  free(content);
  if (strcmp(digest, expected) == 0)
    return NULL;
  remove("image.part");
  return start > 0 ? "" : "hash_mismatch"; /* what was there may be damaged: once more from the beginning */
}

/* Handles an offer to its end; one that comes again goes on where the last one stopped. */
static bool offered(const cJSON *body) {
  const cJSON *offer = get(body, "offer");
  cJSON *manifest = NULL, *firmware;
  bool good = false;
  if (!cJSON_IsObject(offer)) {
    cJSON *cancelled = cJSON_CreateObject();
    cJSON_AddStringToObject(cancelled, "execution", text(body, "cancel"));
    cJSON_AddStringToObject(cancelled, "state", "cancelled");
    return tell("firmware/status", cancelled);
  }
  const char *refusal = offer_refused(offer, &manifest);
  if (refusal == NULL && strcmp(text(manifest, "sha256"), text(get(state, "firmware"), "sha256")) == 0)
    good = status(offer, "succeeded", "version", text(manifest, "version"));
  else if (refusal != NULL)
    good = status(offer, "rejected", "code", refusal);
  else if (status(offer, "accepted", NULL, NULL) && status(offer, "downloading", NULL, NULL)) {
    refusal = download(offer, manifest);
    if (refusal != NULL)
      good = *refusal != 0 && status(offer, "rejected", "code", refusal);
    else if ((good = status(offer, "downloaded", NULL, NULL)) && strcmp(text(offer, "install"), "wait") != 0 &&
             (good = status(offer, "installing", NULL, NULL))) {
      /* A board marks its second slot for a trial here; its boot loader goes back if that does not come up. */
      rename("image.part", "image");
      firmware = cJSON_CreateObject();
      cJSON_AddStringToObject(firmware, "version", text(manifest, "version"));
      cJSON_AddNumberToObject(firmware, "seq", number(manifest, "seq"));
      cJSON_AddNumberToObject(firmware, "highest_seq", number(manifest, "seq"));
      cJSON_AddStringToObject(firmware, "sha256", text(manifest, "sha256"));
      set(state, "firmware", firmware);
      save();
      status(offer, "rebooting", NULL, NULL);
      reboot = true;
    }
  }
  cJSON_Delete(manifest);
  return good;
}

/* --- starting ----------------------------------------------------------------------------------------------------- */

static void stop(int number) { (void)number; stopping = 1; }

/* Loads what outlives a loss of power; the first time it is what the factory wrote. */
static void boot(void) {
  const cJSON *each;
  size_t length;
  char id[65], coded[48];
  factory = read_json("factory.json");
  state = read_json("state.json");
  BIO *bio = BIO_new_file("command.pub", "r");
  EVP_PKEY *key = bio == NULL ? NULL : PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
  unsigned char info[sizeof SPKI + 32], *raw = info + sizeof SPKI;
  length = 32;
  if (factory == NULL || key == NULL || EVP_PKEY_get_raw_public_key(key, raw, &length) != 1) {
    fprintf(stderr, "the factory has not written factory.json and command.pub\n");
    exit(1);
  }
  memcpy(info, SPKI, sizeof SPKI);
  sha256(info, sizeof info, id);
  EVP_EncodeBlock((unsigned char *)coded, raw, 32);
  command_keys = cJSON_Parse("{\"all\": {}, \"role\": {\"keys\": [], \"threshold\": 1}}");
  cJSON_AddStringToObject(get(command_keys, "all"), id, coded);
  cJSON_AddItemToArray(get(get(command_keys, "role"), "keys"), cJSON_CreateString(id));
  EVP_PKEY_free(key);
  BIO_free(bio);
  name = text(factory, "device");
  if (state == NULL) {
    state = cJSON_Parse("{\"boots\": 0, \"desired\": {}, \"desired_version\": 0, \"results\": {}, \"sequences\": {}}");
    cJSON_AddItemToObject(state, "firmware", copy(get(factory, "firmware")));
  }
  cJSON_ArrayForEach(each, get(state, "queue")) {
    enqueue((struct reading){(int64_t)number(each, "time"), (int64_t)number(each, "seq"),
                             number(get(each, "values"), "temperature")});
  }
  cJSON_DeleteItemFromObject(state, "queue");
  set(state, "boots", cJSON_CreateNumber(number(state, "boots") + 1));
  save();
  /* It rises over restarts without a write for each reading: the number of the start, then that of the reading. */
  seq = (int64_t)number(state, "boots") << 24;
}

/* Starts the device, and connects again and again. */
static int run(int argc, char **argv) {
  unsigned seed;
  if (argc != 2 || chdir(argv[1]) != 0) {
    fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  umask(077); /* the folder holds a private key */
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGTERM, stop);
  RAND_bytes((unsigned char *)&seed, sizeof seed);
  srandom(seed); /* so that devices that failed together do not all come back together */
  curl_global_init(CURL_GLOBAL_DEFAULT);
  boot();
  while (!stopping && !reboot) {
    reconnect = false;
    /* The old certificate is good until the new one has connected: after a failure the device tries the other. */
    if (access("device.pem", F_OK) == 0 || enroll())
      serve(failures % 2 == 0 && access("next.pem", F_OK) == 0 ? "next.pem" : "device.pem");
    if (stopping || reconnect || reboot)
      continue;
    int64_t wait = (int64_t)RETRY_MS << (failures < 7 ? failures + 1 : 8);
    wait = wait > LONGEST_RETRY_MS ? LONGEST_RETRY_MS : wait;
    wait = wait / 2 + random() % (wait / 2);
    failures++;
    printf("offline %.1f s\n", (double)wait / 1000);
    wait_ms(wait > retry_after_ms ? wait : retry_after_ms);
  }
  if (reboot) { /* what is in RAM would be lost */
    set(state, "queue", readings(QUEUE));
    save();
  }
  curl_easy_cleanup(curl);
  curl_global_cleanup();
  cJSON_Delete(factory);
  cJSON_Delete(state);
  cJSON_Delete(command_keys);
  if (reboot)
    execl(argv[0], argv[0], ".", (char *)NULL);
  return 0;
}
