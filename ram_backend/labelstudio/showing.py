"""Which predictions annotators are shown: live ones, in the order of their uncertainty (protocol section 5).

Label Studio looks for predictions of the version that the *project* names, and asks the backend only while that is the
backend's *title*. So both are set to the concrete model version: predictions stay live, and the order by uncertainty
works. A project that names the title goes along with it when it changes, in one step of Label Studio's.
"""

from __future__ import annotations

from ram_backend.labelstudio.project_api import ConnectedBackend, ProjectApi

LIVE = "Label Studio shows these, the most uncertain first where the project orders its tasks so."


def show_version(
    api: ProjectApi,
    backend: ConnectedBackend,
    version: str,
    *,
    login: tuple[str, str] | None = None,
    anyway: bool = False,
) -> str | None:
    """Has a project show the predictions of a version, live.

    Args:
        api: of the project.
        backend: the project's first one.
        version: model version that it serves.
        login: user and password of the backend's basic auth, where it has one.
        anyway: also where somebody has chosen other predictions by hand.

    Returns:
        The version that somebody has chosen by hand and that goes on being shown; None: all is as it should be.
    """
    shown = api.state().model_version
    chosen = shown not in (backend.title, version, "")
    if chosen and not anyway:
        return shown
    if backend.title != version:
        api.set_backend_title(backend, version, login)
    if api.state().model_version != version:
        api.set_project_version(version)
    return None


def static(shown: str) -> str:
    """What people are told whose project shows a version that somebody has chosen by hand."""
    return (
        f"The project goes on showing those of {shown!r}, as somebody has set: choose the backend in its Settings >"
        " Annotation to see these."
    )
