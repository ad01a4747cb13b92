"""Background loading of model and text encoder, behind futures."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary, proxy

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.errors import BundleDamaged, BundleNotFound, InputError, NotAvailable, RamError, TextEncoderUnavailable
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import Network, encoder_id_of, load_network
from ram_backend.models.registry import find_bundle
from ram_backend.settings import Settings
from ram_backend.tagging.tagger import TOKEN_DTYPE, rounded
from ram_backend.vocabulary.embeddings import TextEncoder, open_text_encoder

if TYPE_CHECKING:
    from ram_backend.captions.bundle import BundleCaptions
    from ram_backend.regions.finder import RegionFinder

CLOSING = "The server is going down: ask again in a moment."

LOOK_AGAIN_S = 5.0
"""How often a server checks for its missing bundle."""

CHUNK = 64
"""Texts embedded in turn: a few new tags needn't wait for thousands."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def await_shared(future: Future[T]) -> T:
    """The result of a shared future, which survives a cancelled wait."""
    if future.done() and not future.cancelled():
        return future.result()  # a turn of a busy event loop costs milliseconds
    return await asyncio.shield(asyncio.wrap_future(future))


@dataclass(frozen=True)
class ModelIdentity:
    """What is known of a model before its weights are read."""

    bundle: Bundle
    encoder_id: str


class ModelLoader:
    """Loads the settings' bundle in a thread; installs it if it has to.

    `identity` is known before the weights are read. Both futures end with an
    error as long as the bundle is missing or damaged, and are new ones then.
    """

    def __init__(
        self, settings: Settings, *, identity: ModelIdentity | None = None, network: Network | None = None
    ) -> None:
        self._settings = settings
        self.identity: Future[ModelIdentity] = Future()
        self.network: Future[Network] = Future()
        self._closed = threading.Event()
        self.text_encoder = SharedTextEncoder(self, settings, self._closed)
        if identity is not None:
            self.identity.set_result(identity)
        if network is not None:
            self._set_network(network)

    def start(self) -> None:
        """Begins to load what is not there yet."""
        if not self.network.done():
            threading.Thread(target=self._load, name="load-model", daemon=True).start()

    def close(self) -> None:
        """Fails the futures that aren't done yet."""
        self._closed.set()
        self._fail(NotAvailable(CLOSING))

    @property
    def problem(self) -> str | None:
        """Why the model can't be used; None: it can, or is still being loaded."""
        errors = [future.exception() for future in (self.identity, self.network) if future.done()]
        return next((str(error) for error in errors if error is not None), None)

    @property
    def state(self) -> str:
        """One of "ready", "loading" and "failed"."""
        return "failed" if self.problem else ("ready" if self.network.done() else "loading")

    def known(self) -> ModelIdentity:
        """The identity, without waiting. NotAvailable: it is not known yet, or can't be."""
        if not self.identity.done():
            raise NotAvailable(f"Bundle {self._settings.bundle!r} is still being opened: try again in a moment.")
        return self.identity.result()

    @cached_property
    def test_tokens(self) -> NDArray[np.float32]:
        """Tokens (1, T, D) of a test image, as cached. Waits for the network."""
        pixels = self.known().bundle.preprocessing(Image.linear_gradient("L").convert("RGB"))
        return rounded(self.network.result().encode(pixels[None]), TOKEN_DTYPE)

    @cached_property
    def captions(self) -> BundleCaptions | None:
        """The bundle's captioner; None: it lacks the weights. Waits for the bundle."""
        from ram_backend.captions.bundle import BundleCaptions

        try:
            return BundleCaptions(self.known().bundle, device=self._settings.device)
        except InputError as error:
            _log.warning("Captions are left empty. %s", error)
            return None

    @cached_property
    def masks(self) -> RegionFinder | None:
        """Finder of masks, loaded at first use; None: no weights can be read."""
        from ram_backend.regions.finder import RegionFinder
        from ram_backend.regions.weights import folder_of, loading

        data_dir = self._settings.data_dir
        try:
            with loading("sam", folder_of("sam", data_dir)):
                return RegionFinder(data_dir, device=self._settings.device)
        except (BundleNotFound, BundleDamaged) as error:
            _log.warning("Masks are left out. %s", error)
            return None

    def _load(self) -> None:
        started, settings = time.monotonic(), self._settings
        try:
            if not self.identity.done():
                self._identify()
            bundle, threads = self.known().bundle, network_threads(settings)
            self._set_network(
                load_network(bundle, device=settings.device, precision=settings.precision, threads=threads)
            )
            _log.info("model ready: bundle %s, loaded in %.1f s", bundle.name, time.monotonic() - started)
        except InvalidStateError:
            return  # closed meanwhile
        except Exception as error:
            expected = isinstance(error, RamError)
            _log.error("The model can't be loaded: %s", error, exc_info=not expected)
            self._fail(error if expected else NotAvailable("Loading the model failed; the log tells why."))

    def _identify(self) -> None:
        """Opens the bundle; as long as it is missing or damaged, the futures say so."""
        while True:
            try:
                identity = identify(self._settings)
                break
            except (BundleNotFound, BundleDamaged) as error:
                if not self.identity.done():
                    _log.error("/predict answers 503 until the bundle is there. %s", error)
                    self._fail(error)
            if self._closed.wait(LOOK_AGAIN_S):
                raise InvalidStateError
        if self.identity.done():
            self.identity, self.network = Future(), Future()
        self.identity.set_result(identity)

    def _fail(self, why: Exception) -> None:
        for future in (self.identity, self.network):
            with suppress(InvalidStateError):  # that one is there already
                future.set_exception(why)

    def _set_network(self, network: Network) -> None:
        gc.collect()
        gc.freeze()  # collections needn't look at what is loaded
        self.network.set_result(network)


class ModelPool:
    """The server's own model, and those of other bundles that versions need."""

    def __init__(self, settings: Settings, own: ModelLoader) -> None:
        self.own = own
        self._settings = settings
        self._opening = threading.Lock()
        self._others: WeakValueDictionary[str, ModelLoader] = WeakValueDictionary()

    def get(self, name: str | None) -> ModelLoader:
        """The model of a bundle (None: the settings'), loaded in the background.

        Raises:
            NotAvailable: the settings' bundle is not open yet.
            BundleNotFound, BundleDamaged: the chosen one is not there.
        """
        if name is None or name == self.own.known().bundle.name:
            return self.own
        with self._opening:
            model = self._others.get(name)
            if model is None:
                settings = self._settings.model_copy(update={"bundle": name})
                model = self._others[name] = ModelLoader(settings, identity=identify(settings))
                model.start()
            return model

    def close(self) -> None:
        """Closes all of them."""
        for model in (self.own, *self._others.values()):
            model.close()


def identify(settings: Settings) -> ModelIdentity:
    """Opens the settings' bundle and imports its engine; installs a missing starter.

    Raises:
        BundleNotFound, BundleDamaged, SettingsError: see the message.
    """
    bundle = find_bundle(settings.bundle, settings.bundles_dir)
    return ModelIdentity(bundle, encoder_id_of(bundle, device=settings.device, precision=settings.precision))


def network_threads(settings: Settings) -> int:
    """CPU threads of the network; by default one core is left for requests."""
    return settings.threads if settings.threads is not None else max(1, settings.cpu_threads() - 1)


class SharedTextEncoder:
    """The bundle's `TextEncoder`, opened at its first use; one thread embeds.

    Everything here may wait, so building threads call it and no others. When it
    is `closed`, it ends after its chunk.
    """

    def __init__(self, model: ModelLoader, settings: Settings, closed: threading.Event) -> None:
        self._model = proxy(model)  # no cycle: `gc.freeze` would keep it for ever
        self._settings = settings.model_copy(update={"threads": network_threads(settings)})
        self._opening = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._encoder: TextEncoder | None = None
        self._closed = closed

    @property
    def id(self) -> str:
        """Identity of the encoder."""
        return self._opened().id

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (L, dim) float32 of L tags.

        Raises:
            NotAvailable: the server is going down, or the bundle can't be used.
            TextEncoderUnavailable: the bundle has none.
        """
        encoder = self._opened()
        rows = np.empty((len(texts), encoder.dim), dtype=np.float32)
        for start in range(0, len(texts), CHUNK):
            if self._closed.is_set():
                raise NotAvailable(CLOSING)
            rows[start : start + CHUNK] = self._thread.submit(encoder.embed, texts[start : start + CHUNK]).result()
        return rows

    def _opened(self) -> TextEncoder:
        with self._opening:
            if self._encoder is None:
                name = self._model.identity.result().bundle.text_encoder
                if name is None:
                    raise TextEncoderUnavailable("The bundle has no text encoder: it can't take new tags.")
                self._encoder = open_text_encoder(name, self._settings)
            return self._encoder
