/* A device over MQTT 5 in C with libmosquitto, OpenSSL and cJSON: it enrols by the claim certificate of its batch, all
 * over MQTT; libcurl downloads firmware.
 *
 *   LIBRARIES="libmosquitto libcurl libcrypto libcjson"
 *   gcc -Wall -Wextra -o mosquitto_device mosquitto_device.c $(pkg-config --cflags --libs $LIBRARIES)
 *   ./mosquitto_device FOLDER
 *
 * device.h has what it does; this file has how it speaks. Beside its files the factory writes claim.pem and claim.key,
 * and the name of the batch as "claim" in factory.json. */
#include "device.h"
#include <mosquitto.h>
#include <poll.h>

/* A message that has come and waits for its turn: libmosquitto's callbacks only file what happens. */
struct message { struct message *next; char *topic; cJSON *body; };

static struct message *inbox, **inbox_end = &inbox;
static struct mosquitto *mqtt;
static char prefix[160];          /* fleet/v1/ID/ */
static bool is_open, lost;
static int in_flight;             /* number of the message with readings that is under way; 0 for none */
static int64_t in_flight_seq;     /* seq of its last reading */
static char *new_key;             /* of a request for a certificate that is under way */

static void on_connect(struct mosquitto *client, void *user, int code, int flags, const mosquitto_property *more) {
  (void)client, (void)user, (void)flags, (void)more;
  is_open = code == 0;
  lost = code != 0;
}

static void on_disconnect(struct mosquitto *client, void *user, int code, const mosquitto_property *more) {
  (void)client, (void)user, (void)more;
  printf("lost %d %s\n", code, mosquitto_strerror(code));
  lost = true;
}

/* Readings that are stored are dropped, and those that are refused for good (a code of 128 or more). */
static void on_publish(struct mosquitto *client, void *user, int number, int code, const mosquitto_property *more) {
  (void)client, (void)user, (void)more;
  if (number != in_flight)
    return;
  if (code >= 128)
    printf("readings refused %s\n", mosquitto_reason_string(code));
  while (waiting > 0 && queue[first].seq <= in_flight_seq)
    drop(1);
  in_flight = 0;
}

static void on_message(struct mosquitto *client, void *user, const struct mosquitto_message *came,
                       const mosquitto_property *more) {
  (void)client, (void)user, (void)more;
  struct message *message = calloc(1, sizeof *message);
  message->topic = strdup(came->topic + strlen(prefix));
  message->body = cJSON_ParseWithLength(came->payload, (size_t)came->payloadlen);
  *inbox_end = message;
  inbox_end = &message->next;
}

static struct message *next_message(void) {
  struct message *message = inbox;
  if (message != NULL && (inbox = message->next) == NULL)
    inbox_end = &inbox;
  return message;
}

static void forget(struct message *message) {
  if (message == NULL)
    return;
  cJSON_Delete(message->body);
  free(message->topic);
  free(message);
}

static bool tell(const char *where, cJSON *body) {
  char topic[320], *sent = cJSON_PrintUnformatted(body);
  snprintf(topic, sizeof topic, "%s%s", prefix, where);
  int failed = mosquitto_publish(mqtt, NULL, topic, (int)strlen(sent), sent, 1, false);
  free(sent);
  cJSON_Delete(body);
  return failed == MOSQ_ERR_SUCCESS && !lost;
}

static void meanwhile(void) {
  sample();
  mosquitto_loop(mqtt, 0, 1);
}

/* Ends the connection. */
static void leave(void) {
  struct message *message;
  if (mqtt != NULL) {
    mosquitto_disconnect(mqtt);
    mosquitto_destroy(mqtt);
  }
  mqtt = NULL;
  while ((message = next_message()) != NULL)
    forget(message);
  free(new_key);
  new_key = NULL;
}

/* Subscribes to the topics below the identity's own. */
static void listen_to(const char *const *topics) {
  char topic[320];
  for (; *topics != NULL; topics++) {
    snprintf(topic, sizeof topic, "%s%s", prefix, *topics);
    mosquitto_subscribe(mqtt, NULL, topic, 1);
  }
}

/* Opens a connection as an identity; it trusts only the fleet's CAs and checks the server's name. Each is a new client:
 * what was not acknowledged is the device's to send again. */
static bool come(const char *identity, const char *certificate, const char *key, const char *session) {
  char host[256] = "", topic[320], will[80];
  int port = 8883;
  int64_t until = ticks_ms() + 20000;
  leave();
  snprintf(prefix, sizeof prefix, "fleet/v1/%s/", identity);
  sscanf(text(factory, "mqtt"), "mqtts://%255[^:]:%d", host, &port);
  is_open = lost = false;
  in_flight = 0;
  mqtt = mosquitto_new(session == NULL ? NULL : name, true, NULL);
  mosquitto_int_option(mqtt, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
  mosquitto_connect_v5_callback_set(mqtt, on_connect);
  mosquitto_disconnect_v5_callback_set(mqtt, on_disconnect);
  mosquitto_publish_v5_callback_set(mqtt, on_publish);
  mosquitto_message_v5_callback_set(mqtt, on_message);
  if (session != NULL) {
    snprintf(topic, sizeof topic, "%sstatus", prefix);
    snprintf(will, sizeof will, "{\"state\": \"offline\", \"session\": \"%s\"}", session);
    mosquitto_will_set(mqtt, topic, (int)strlen(will), will, 1, false);
  }
  int failed = mosquitto_tls_set(mqtt, "ca.pem", NULL, certificate, key, NULL);
  if (failed == MOSQ_ERR_SUCCESS)
    failed = mosquitto_connect_async(mqtt, host, port, 60);
  while (failed == MOSQ_ERR_SUCCESS && !is_open && !lost && !stopping && ticks_ms() < until) {
    sample();
    failed = mosquitto_loop(mqtt, 100, 1);
    struct pollfd end = {.fd = mosquitto_socket(mqtt)};
    if (failed == MOSQ_ERR_SUCCESS && poll(&end, 1, 0) > 0) /* an error, of which libmosquitto does not tell */
      failed = MOSQ_ERR_NO_CONN;
  }
  if (failed != MOSQ_ERR_SUCCESS)
    printf("not connected: %s\n", mosquitto_strerror(failed));
  return is_open;
}

/* --- credentials -------------------------------------------------------------------------------------------------- */

/* Asks for a certificate for a key; the answer comes on reply/{number}. */
static bool ask_for_certificate(const char *number, const char *op, const char *key) {
  char where[40], *csr = make_request(key);
  cJSON *request = cJSON_CreateObject(), *body = cJSON_AddObjectToObject(request, "body");
  snprintf(where, sizeof where, "request/%s", number);
  cJSON_AddStringToObject(request, "op", op);
  cJSON_AddStringToObject(body, "csr", csr);
  if (strcmp(op, "enroll") == 0)
    cJSON_AddStringToObject(cJSON_AddObjectToObject(body, "parameters"), "model", text(factory, "model"));
  free(csr);
  return tell(where, request);
}

/* Saves the certificates of an answer with their key. */
static bool keep_answer(const char *file, const char *key, const cJSON *reply) {
  const cJSON *body = get(reply, "body");
  char *certificates = NULL;
  if (number(reply, "status") != 201 ||
      asprintf(&certificates, "%s%s", text(body, "certificate"), text(body, "chain")) < 0) {
    printf("no certificate: %s\n", text(get(reply, "error"), "code"));
    return false;
  }
  write_file("ca.pem", text(body, "ca"));
  keep(file, key, certificates, (double)ms(text(body, "renew_after")));
  free(certificates);
  return true;
}

/* The first certificate, by the claim certificate of the batch. */
static bool enroll(void) {
  static const char *const TOPICS[] = {"reply/+", NULL};
  char identity[120];
  struct message *reply = NULL;
  int64_t until = ticks_ms() + 20000;
  snprintf(identity, sizeof identity, "fleetcore:claim:%s", text(factory, "claim"));
  bool good = come(identity, "claim.pem", "claim.key", NULL);
  if (good) {
    listen_to(TOPICS);
    good = ask_for_certificate("enroll", "enroll", first_key());
  }
  while (good && !lost && !stopping && (reply = next_message()) == NULL && ticks_ms() < until)
    meanwhile();
  good = reply != NULL && keep_answer("device.pem", first_key(), reply->body);
  forget(reply);
  leave();
  if (good)
    puts("enrolled");
  return good;
}

/* --- the conversation --------------------------------------------------------------------------------------------- */

/* Sends the oldest readings, one message at a time. */
static bool send_readings(void) {
  if (waiting == 0 || in_flight != 0)
    return true;
  char topic[320];
  cJSON *batch = readings(BATCH);
  char *sent = cJSON_PrintUnformatted(batch);
  in_flight_seq = queue[(first + cJSON_GetArraySize(batch) - 1) % QUEUE].seq;
  snprintf(topic, sizeof topic, "%stelemetry", prefix);
  int failed = mosquitto_publish(mqtt, &in_flight, topic, (int)strlen(sent), sent, 1, false);
  free(sent);
  cJSON_Delete(batch);
  return failed == MOSQ_ERR_SUCCESS;
}

/* Handles a message; false where the connection is lost. */
static bool handle(const char *topic, const cJSON *body) {
  bool good = true;
  char id[80] = "";
  if (strcmp(topic, "twin") == 0)
    return follow(number(body, "desired_version"), copy(get(body, "desired")));
  if (strcmp(topic, "twin/desired") == 0) /* else versions between are missing */
    return patched(body, &good) ? good : tell("twin/get", cJSON_CreateObject());
  if (strcmp(topic, "commands") == 0)
    return command(body);
  if (sscanf(topic, "commands/%79[^/]/cancel", id) == 1) {
    cJSON *cancelled = cJSON_Parse("{\"cancel\": true}");
    cJSON_AddStringToObject(cancelled, "id", id);
    good = command(cancelled);
    cJSON_Delete(cancelled);
    return good;
  }
  if (strcmp(topic, "firmware") == 0)
    return offered(body);
  if (strcmp(topic, "reply/renew") == 0 && new_key != NULL)
    reconnect = keep_answer("next.pem", new_key, body);
  if (strcmp(topic, "errors") == 0)
    printf("refused %s %s %s\n", text(body, "code"), text(body, "topic"), text(body, "detail"));
  return true;
}

static void serve(const char *credential) {
  static const char *const TOPICS[] = {"twin", "twin/desired", "commands", "commands/+/cancel",
                                       "firmware", "reply/+", "errors", NULL};
  char session[20];
  cJSON *online = cJSON_Parse("{\"state\": \"online\"}");
  snprintf(session, sizeof session, "%08lx", random());
  cJSON_AddStringToObject(online, "session", session);
  if (!come(name, credential, credential, session)) {
    cJSON_Delete(online);
    leave();
    return;
  }
  connected(credential);
  open_connection("device.pem"); /* for firmware */
  listen_to(TOPICS);
  bool good = tell("status", online) && report();
  failures = 0;
  while (good && !lost && !stopping && !reconnect && !reboot) {
    sample();
    good = send_readings();
    if (renewal_is_due()) { /* with a new key; the old certificate stays until the next one works */
      free(new_key);
      new_key = make_key();
      good = good && ask_for_certificate("renew", "certificate.renew", new_key);
    }
    int64_t left = next_sample - ticks_ms();
    good = good && mosquitto_loop(mqtt, left < 0 ? 0 : left < 1000 ? (int)left : 1000, 1) == MOSQ_ERR_SUCCESS;
    struct message *message;
    while (good && !reconnect && !reboot && (message = next_message()) != NULL) {
      good = handle(message->topic, message->body);
      forget(message);
    }
  }
  for (int at = 0; reboot && at < 20; at++) /* what was said last goes out before the restart */
    mosquitto_loop(mqtt, 10, 1);
  leave();
}

int main(int argc, char **argv) {
  mosquitto_lib_init();
  int code = run(argc, argv);
  mosquitto_lib_cleanup();
  return code;
}
