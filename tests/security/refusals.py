"""What is refused, the guard in the code that refuses it, and the test that fails without that guard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """What is refused.

    Attributes:
        what: in words.
        file: of the package, that has the guard.
        guard: a piece of its text, which occurs there once.
        disabled: what stands there instead where the guard is off.
        test: file and function.
    """

    what: str
    file: str
    guard: str
    disabled: str
    test: str


REFUSALS = (
    # Who may ask
    Refusal(
        "requests without the login",
        "server/middleware.py",
        'raise Refused(401, "Unauthorized"',
        'Refused(401, "Unauthorized"',
        "server/test_access.py::test_all_but_health_want_the_login",
    ),
    Refusal(
        "webhooks without the secret",
        "server/middleware.py",
        'if scope["path"] == "/webhook" and self._secret:',
        "if False:",
        "server/test_access.py::test_a_secret_without_a_login_guards_webhooks_alone",
    ),
    Refusal(
        "web pages of another origin",
        "server/middleware.py",
        "if origins - {hosts[-1].lower() or None} or sites - _OWN_SITES:",
        "if False:",
        "security/test_browsers.py::test_pages_of_another_origin",
    ),
    Refusal(
        "bodies that a web page may send anywhere",
        "server/middleware.py",
        'if scope["method"] == "POST" and media_type',
        "if False and media_type",
        "security/test_browsers.py::test_a_post_is_json",
    ),
    Refusal(
        "names of others that lead here",
        "server/middleware.py",
        "        if unknown:\n",
        "        if False:\n",
        "security/test_browsers.py::test_hosts_on_loopback",
    ),
    # Which addresses are fetched
    Refusal(
        "internal addresses",
        "images/guard.py",
        "if not is_internal(ip) or origin in self.origins:",
        "if True:",
        "images/test_fetch.py::test_internal_addresses_are_not_even_connected_to",
    ),
    Refusal(
        "a redirect to an internal address",
        "images/guard.py",
        "if not is_internal(ip) or origin in self.origins:",
        "if True:",
        "images/test_fetch.py::test_a_redirect_to_an_internal_address",
    ),
    Refusal(
        "a name that resolves to loopback",
        "images/connections.py",
        "guard.check(Origin(scheme, host, port), address)",
        "pass",
        "images/test_fetch.py::test_a_name_with_one_internal_address_is_refused",
    ),
    Refusal(
        "a name of which one address of several is internal",
        "images/connections.py",
        "    for address in addresses:\n",
        "    for address in addresses[:1]:\n",
        "images/test_fetch.py::test_a_name_with_one_internal_address_is_refused",
    ),
    Refusal(
        "another address than the one checked (DNS rebinding)",
        "images/connections.py",
        "create_connection((address, port)",
        "create_connection((host, port)",
        "images/test_fetch.py::test_the_connection_goes_to_the_address_that_was_checked",
    ),
    Refusal(
        "IPv4 addresses inside IPv6 ones",
        "images/guard.py",
        "return is_internal(wrapped)",
        "return False",
        "images/test_guard.py::test_internal_addresses",
    ),
    Refusal(
        "hosts written as odd numbers",
        "images/guard.py",
        'return "" if _NUMBER.fullmatch(host.rpartition(".")[2]) else host',
        "return host",
        "images/test_guard.py::test_urls_that_are_not_asked",
    ),
    Refusal(
        "users and passwords in addresses",
        "images/guard.py",
        "        if parts.auth is not None:\n",
        "        if False:\n",
        "images/test_guard.py::test_urls_that_are_not_asked",
    ),
    Refusal(
        "line breaks in addresses (header injection)",
        "images/guard.py",
        'parse_url("" if _CONTROL.search(url) else url)',
        "parse_url(url)",
        "images/test_guard.py::test_urls_that_are_not_asked",
    ),
    Refusal(
        "addresses without end",
        "images/guard.py",
        "if len(url) > _LONGEST_URL:",
        "if False:",
        "security/test_hostile_setup.py::test_addresses_without_end",
    ),
    Refusal(
        "schemes that are no images' (file:, gopher:)",
        "labelstudio/task_images.py",
        'if scheme in ("http", "https", "data"):',
        'if scheme == "file" and (value := value[7:]):\n            return open(value, "rb").read()\n        if True:',
        "labelstudio/test_task_images.py::test_what_can_t_be_fetched",
    ),
    Refusal(
        "steps up in paths of local files",
        "labelstudio/task_images.py",
        "            _check_path(value)\n",
        "",
        "security/test_hostile_setup.py::test_steps_up_are_refused",
    ),
    Refusal(
        "Label Studio's API as an image",
        "labelstudio/task_images.py",
        "if studio.is_api(own):",
        "if False:",
        "security/test_hostile_setup.py::test_a_task_asks_no_api",
    ),
    # To whom the token goes
    Refusal(
        "the token to where Label Studio redirects",
        "labelstudio/client.py",
        "if address.origin != self.origin:\n                    return self.fetcher.follow",
        "if False:\n                    return self.fetcher.follow",
        "labelstudio/test_client.py::test_a_redirect_elsewhere_goes_without_the_token",
    ),
    Refusal(
        "internal addresses of a host that is not trusted",
        "labelstudio/client.py",
        "guard.with_origins([self.origin]) if trusted else guard",
        "guard.with_origins([self.origin])",
        "labelstudio/test_client.py::test_one_that_is_not_trusted_is_not_asked_inside",
    ),
    Refusal(
        "the token to paths that need none",
        "labelstudio/client.py",
        "if not self._login or not address.target.startswith(self._with_login):",
        "if not self._login:",
        "labelstudio/test_client.py::test_paths_that_hold_no_files_go_without_the_token",
    ),
    Refusal(
        "trust in a host that only /setup named",
        "projects/connection.py",
        "if pin is None or project.hostname != pin.host:",
        "if pin is None:",
        "projects/test_store.py::test_the_settings_token_goes_to_no_host_that_only_setup_named",
    ),
    Refusal(
        "the settings' token to a host that the first /setup pinned",
        "projects/connection.py",
        "if pin.by_command:",
        "if True:",
        "projects/test_store.py::test_the_settings_token_goes_to_no_host_that_only_setup_named",
    ),
    Refusal(
        "a pin by /setup unless both are on loopback",
        "projects/store.py",
        "self._on_loopback and is_loopback(key.instance)",
        "bool(key.instance)",
        "projects/test_store.py::test_setup_pins_nothing_unless_both_are_on_loopback",
    ),
    Refusal(
        "a changed token that Label Studio does not take",
        "server/handlers.py",
        "if await asyncio.to_thread(takes_token, label_studio):",
        "if True:",
        "security/test_hostile_setup.py::test_a_changed_token_is_tried_before_it_replaces_the_old_one",
    ),
    # What an image may cost
    Refusal(
        "images of too many bytes, also packed ones",
        "images/fetch.py",
        "            if len(content) > limit:\n",
        "            if False:\n",
        "images/test_fetch.py::test_more_bytes_than_allowed",
    ),
    Refusal(
        "images of too many pixels",
        "images/decode.py",
        "if width * height > limit:",
        "if False:",
        "images/test_decode_refusals.py::test_more_pixels_than_allowed_are_refused_from_the_header",
    ),
    Refusal(
        "servers that drip",
        "images/connections.py",
        "socket.socket.shutdown(self._socket, socket.SHUT_RDWR)",
        "pass",
        "images/test_fetch.py::test_a_server_that_drips_does_not_hold_a_thread",
    ),
    Refusal(
        "redirects without end",
        "images/fetch.py",
        "range(hops, self.limits.redirects + 1)",
        "range(hops, 50)",
        "images/test_fetch.py::test_five_redirects_are_followed_and_no_more",
    ),
    Refusal(
        "data URIs that grow",
        "images/fetch.py",
        "data = _unquoted(content)",
        "data = unquote_to_bytes(content)",
        "security/test_hostile_setup.py::test_data_uris_that_grow",
    ),
    # What a request may cost
    Refusal(
        "bodies announced too large",
        "server/middleware.py",
        "self._check(int(announced) if announced.isdecimal() else 0)",
        "pass",
        "security/test_bodies.py::test_a_body_announced_too_large_is_not_waited_for",
    ),
    Refusal(
        "bodies too large",
        "server/middleware.py",
        "if size > self._max_bytes:",
        "if False:",
        "server/test_access.py::test_bodies_have_a_limit",
    ),
    Refusal(
        "bodies that never end",
        "server/middleware.py",
        "asyncio.timeout(self._seconds)",
        "asyncio.timeout(None)",
        "security/test_bodies.py::test_a_body_that_never_ends",
    ),
    Refusal(
        "large bodies together",
        "server/middleware.py",
        "if size > SMALL_BODY_BYTES and",
        "if False and",
        "security/test_bodies.py::test_large_bodies_together",
    ),
    Refusal(
        "bodies that become many objects",
        "labelstudio/requests.py",
        "if containers > MAX_CONTAINERS or",
        "if False and",
        "security/test_hostile_setup.py::test_bodies_that_grow",
    ),
    Refusal(
        "more tasks than anybody asks for at once",
        "labelstudio/requests.py",
        "max_length=MAX_TASKS, ",
        "",
        "security/test_hostile_setup.py::test_too_many_tasks",
    ),
    Refusal(
        "project numbers that no database keeps",
        "labelstudio/requests.py",
        " or not 0 <= number <= _LARGEST",
        "",
        "security/test_endpoints.py::test_numbers_that_no_database_keeps",
    ),
    # Label configs and extra params
    Refusal(
        "document types: entities that grow or read files",
        "labelstudio/markup.py",
        'raise LabelConfigError("The label config has a document type (<!DOCTYPE ...>), which is not read. Remove it.")',  # noqa: E501
        "return",
        "labelstudio/test_label_config.py::test_entities_are_refused_before_they_can_grow_or_read_files",
    ),
    Refusal(
        "label configs that nest deeply",
        "labelstudio/markup.py",
        "if len(self._open) >= MAX_DEPTH:",
        "if False:",
        "security/test_hostile_setup.py::test_label_config_bombs",
    ),
    Refusal(
        "label configs of too many elements",
        "labelstudio/markup.py",
        "if self._elements > MAX_ELEMENTS:",
        "if False:",
        "security/test_hostile_setup.py::test_too_many_elements",
    ),
    Refusal(
        "label configs of too many choices",
        "labelstudio/label_config.py",
        "if sum(len(choice.texts) for control in tags for choice in control.choices) > MAX_CHOICES:",
        "if False:",
        "security/test_hostile_setup.py::test_label_config_bombs",
    ),
    Refusal(
        "numbers of many digits in label configs",
        "labelstudio/label_config.py",
        "return int(match[1])",
        "return int(match[0])",
        "security/test_hostile_setup.py::test_label_configs_that_are_odd_and_good",
    ),
    Refusal(
        "label configs that were refused, in memory",
        "server/snapshots.py",
        "        config = resolve_config(identity, parse_label_config(label_config), project, version)\n",
        "        self._plain[label_config] = self\n"
        "        config = resolve_config(identity, parse_label_config(label_config), project, version)\n",
        "security/test_hostile_setup.py::test_refused_label_configs_are_not_kept",
    ),
    Refusal(
        "label configs in memory without bounds",
        "server/snapshots.py",
        'hashlib.sha256(label_config.encode("utf-8", "surrogatepass")).hexdigest()',
        "label_config",
        "security/test_hostile_setup.py::test_good_label_configs_are_kept_within_bounds",
    ),
    Refusal(
        "projects without end",
        "projects/store.py",
        "if before is None and len(self._view) >= self._max_projects:",
        "if False:",
        "security/test_hostile_setup.py::test_projects_without_end",
    ),
    Refusal(
        "large projects without end",
        "projects/store.py",
        "if held + after.characters > most:",
        "if False:",
        "security/test_hostile_setup.py::test_large_projects_without_end",
    ),
    Refusal(
        "extra params with too many tags",
        "projects/options.py",
        "Field(min_length=1, max_length=MAX_TAGS)",
        "Field(min_length=1)",
        "security/test_hostile_setup.py::test_extra_params_bombs",
    ),
    # What is told
    Refusal(
        "line breaks in answers (header injection)",
        "server/problems.py",
        "{_REASON_HEADER: as_reason(message)}",
        "{_REASON_HEADER: message}",
        "server/test_reasons.py::test_requests_shows_the_message",
    ),
    Refusal(
        "messages without end",
        "server/problems.py",
        "if len(message) <= LONGEST_MESSAGE else",
        "if True else",
        "security/test_hostile_setup.py::test_label_config_bombs",
    ),
    Refusal(
        "passwords in what is shown",
        "images/guard.py",
        'authority.rpartition("@")[2]',
        "authority",
        "images/test_guard.py::test_what_is_shown_of_a_url",
    ),
    Refusal(
        "details of an unexpected error",
        "server/middleware.py",
        "            _log.exception(",
        "            raise\n            _log.exception(",
        "server/test_access.py::test_an_unexpected_error_tells_no_details",
    ),
)
