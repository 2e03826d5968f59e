"""Codes whose remedy is not followed by a case of `spec_cases` or `test_commands`: the test that does it, or why none does."""

from __future__ import annotations

__all__ = ["FOLLOWED", "NOT_FOLLOWED"]

_VALUES = "tests/remedies/test_values.py"
_MODELS = "tests/remedies/test_models.py::test_a_model_is_imported_once_it_is_changed_as_it_is_told"
_FRAMEWORKS = "tests/frameworks"

FOLLOWED = {
    "E110": f"{_VALUES}::test_a_file_in_another_encoding_is_saved_as_utf_8",
    "E111": f"{_VALUES}::test_a_nesting_that_is_too_deep_has_a_wrong_bracket",
    "E112": f"{_VALUES}::test_an_empty_file_is_begun_with_the_lines_that_are_named",
    "E127": f"{_VALUES}::test_an_open_dimension_gets_the_range_that_is_named",
    "E129": f"{_VALUES}::test_a_renamed_input_gets_the_tensor_that_is_named",
    "E136": f"{_VALUES}::test_a_spec_in_the_models_folder_is_moved_out",
    "E140": f"{_VALUES}::test_a_misspelled_model_is_found_by_the_name_that_is_meant",
    "E142": f"{_VALUES}::test_a_pointer_of_git_lfs_is_replaced_by_the_file",
    "E143": f"{_VALUES}::test_a_damaged_model_is_copied_again",
    "E144": f"{_VALUES}::test_one_of_several_models_is_named",
    "E216": f"{_VALUES}::test_an_earlier_render_is_replaced_with_force",
    "E218": f"{_VALUES}::test_a_folder_that_holds_something_else_is_not_rendered_into",
    "E303": "tests/remedies/test_models.py::test_an_object_among_the_weights_is_saved_as_a_state_dict",
    **dict.fromkeys(
        ("E304", "E305", "E306", "E307", "E310", "E311", "E312", "E313", "E314", "E315", "E320", "E321", "E322", "E323", "E324"),
        _MODELS,
    ),
    **dict.fromkeys(("E325", "E326", "E328", "E330", "E331", "E332"), _MODELS),
    "E423": f"{_FRAMEWORKS}/pytorch/test_padding.py::test_a_constant_at_padded_positions_helps",
    "E428": f"{_FRAMEWORKS}/pytorch/test_convert.py::test_an_accepted_line_is_frozen_and_said",
    "E614": f"{_VALUES}::test_inputs_of_a_request_are_given_as_the_message_spells_them",
    "E618": f"{_VALUES}::test_another_port_is_set_where_one_is_taken",
    "E620": f"{_VALUES}::test_a_folder_that_is_in_use_is_exchanged_or_emptied",
    "E672": "tests/targets/test_gitops.py::test_files_for_argo_cd_and_flux_need_a_repository",
    **dict.fromkeys(
        ("E677", "E678"),
        "tests/targets/test_gitops.py::test_what_does_not_go_with_an_inference_service_is_refused_until_the_remedy_is_followed",
    ),
    "E701": "tests/store/test_full_disk.py::test_a_full_disk_is_reported_with_what_to_do_and_loses_nothing",
    "E703": "tests/store/test_locks.py::test_a_waiting_process_is_told_the_holder_once_and_then_gets_the_lock",
    "E706": f"{_VALUES}::test_a_link_in_a_model_is_replaced_by_the_file",
}  # fmt: skip
"""Code → the test in which the remedy is followed and the refusal goes away."""


def _made_again(file: str) -> str:
    return f"the model is saved again without the fault, as those are that {_FRAMEWORKS}/{file} imports"


_OTHER_MACHINE = "it needs another machine, package or driver, which a test cannot bring"
_FATE = "it is the fate of a candidate, which the run goes on without; there is nothing to do"
_BUG = "it is a bug of mlo or of a step, for which nobody but its author can do anything"
_ENDED = "it says that the user ended the command; running it again is all that there is to do"
_SERVED = "what serves is told, and nothing is to be done about it"
_OUTSIDE = "what is outside of mlo has to change: a server, a network, a cluster or another program"
_LOG = "the reason is in the log that it names; what to do depends on it"

NOT_FOLLOWED = {
    "E128": "the model has to be changed; a model of types that are served is planned in tests/plan/test_found.py",
    "E141": "another path has to be given; tests/draft/test_detect.py finds models of every kind",
    "E145": "`mlo init` runs in a process of its own for seconds; tests/cli/test_init.py overwrites a spec with --force",
    "E146": "`mlo init` reads the model in a process of its own; it writes beside other models in tests/cli/test_init.py",
    "E202": _OTHER_MACHINE,
    "E203": "the file has to be given back; every other test of tests/engine plans with files that exist",
    "E205": _OTHER_MACHINE,
    "E212": "a plan that is not stale is applied by tests/cli/test_contract.py, which takes a whole run",
    "E219": "the user said no; --yes applies in every end-to-end test",
    "E301": "the path or the kind is corrected, as it is in each test of tests/frameworks that imports a model",
    "E302": _made_again("pytorch/test_weights.py"),
    "E308": _made_again("pytorch/test_weights.py"),
    "E346": "the samples or the spec are corrected; tests/frameworks/source/test_allowed.py has samples that are allowed",
    "E350": _made_again("tensorflow/test_saved_model_source.py"),
    "E351": _made_again("tensorflow/test_saved_model_source.py"),
    "E352": _made_again("tensorflow/test_saved_model_source.py"),
    "E353": _made_again("tensorflow/test_saved_model_source.py"),
    "E354": _made_again("tensorflow/test_keras_source.py"),
    "E355": _made_again("tensorflow/test_keras_source.py"),
    "E356": _made_again("tensorflow/test_saved_model_source.py"),
    "E357": _made_again("tensorflow/test_keras_source.py"),
    "E358": _made_again("tensorflow/test_keras_source.py"),
    "E359": _made_again("tensorflow/test_keras_source.py"),
    "E360": _made_again("onnx/test_external_data.py"),
    "E361": _made_again("onnx/test_external_data.py"),
    "E362": _made_again("onnx/test_inputs_outputs.py"),
    "E363": _made_again("onnx/test_inputs_outputs.py"),
    "E364": _made_again("onnx/test_refusals.py"),
    "E365": _made_again("onnx/test_refusals.py"),
    "E366": _made_again("litert/test_source.py"),
    "E367": _made_again("litert/test_source.py"),
    "E370": _OTHER_MACHINE,
    "E371": _made_again("transformers/test_folders.py"),
    "E372": _made_again("transformers/test_folders.py"),
    "E373": _made_again("transformers/test_folders.py"),
    "E374": _made_again("transformers/test_folders.py"),
    "E375": _made_again("transformers/test_source.py"),
    "E376": _made_again("transformers/test_folders.py"),
    "E280": "the value has to be corrected; tests/targets/test_chart_schema.py accepts values that the chart takes",
    "E281": "the value has to be removed; tests/targets/test_chart_schema.py accepts specs without it",
    "E282": "one of two keys has to be removed; tests/targets/test_chart_schema.py accepts specs with one of them",
    "E401": _LOG,
    "E402": "a step that has enough time is every other one; waiting for the limit, at least a minute, is too long for a test",
    "E403": "another size or another machine; tests/measure/test_sweep.py finds the sizes that fit",
    "E404": _LOG,
    "E405": "the file has to be left alone, as it is while every other step runs; it is not cached, see tests/engine",
    "E406": _ENDED,
    "E407": _ENDED,
    "E408": "the step that it depends on says what to do",
    "E409": "space has to be made; tests/store/test_full_disk.py does so for the store and goes on",
    "E420": _FATE,
    "E421": _FATE,
    "E422": "the model's code has to be written otherwise, or the format left out; a candidate's refusal does not end a run",
    "E424": _FATE,
    "E425": _FATE,
    "E426": _FATE,
    "E427": _OTHER_MACHINE,
    "E440": "the sizes of a spec are checked before (E123); this one guards the step itself",
    "E451": _BUG,
    "E452": _BUG,
    "E481": "the certificate has to be made again; tests/spec/test_tls.py accepts one that is valid",
    "E482": "the server or the file has to be exchanged; tests/render/test_tls.py asks servers that show the right one",
    "E490": "more replicas are allowed, as in the tests of tests/render/test_artifacts.py that render them",
    "E491": "an engine has to be started; tests/measure/test_inside_containers.py measures with one",
    "E492": "processes are measured over TLS in tests/measure/test_tls_load.py",
    "E501": "another limit or machine, and minutes of measurement; tests/plan/test_rules_and_targets.py plans without enforcing",
    "E502": "depends on the reasons that it lists; tests/optimize/test_nothing_wins.py has the remedy of each",
    "E601": _LOG,
    "E603": _LOG,
    "E138": "one of two keys has to be removed, each of which works alone in tests/e2e/test_images.py",
    "E604": _LOG,
    "E605": "the other command has to end; tests/engine/test_going_live.py deploys once it has",
    "E606": "the command that it names ends a process of the test itself; tests/targets/test_processes.py checks its number",
    "E607": _LOG,
    "E608": "the server has to be exchanged, or a limit widened; tests/targets/test_golden.py has answers within them",
    "E609": _LOG,
    "E610": _OUTSIDE,
    "E611": "the inputs have to be corrected; tests/targets/test_asking.py sends some that fit",
    "E612": _LOG,
    "E613": _OUTSIDE,
    "E615": "there is a log once a server was started, as in tests/targets/test_processes.py",
    "E616": _OTHER_MACHINE,
    "E617": "a deployment has to be applied again, which takes a whole run",
    "E619": "a deployment has to be applied, which takes a whole run",
    "E621": "the other program has to stop; the copy that it spoiled is dropped in tests/targets/test_folder.py",
    "E622": "another revision has to be applied or named; tests/engine/test_going_live.py rolls back to one that exists",
    "E623": "another share has to be asked for; no command asks for one yet",
    "E624": "three ways, each of which needs a second deployment; tests/cli/test_stores.py checks the commands that it names",
    "E625": "tokens have to be written; tests/render/test_set_servers.py asks with a file that has them, then empties it",
    **dict.fromkeys((f"E{number}" for number in range(630, 640) if number != 635), _OUTSIDE),
    "E635": "docker login asks for a password; tests/e2e/test_pushing.py pushes with what it writes",
    **dict.fromkeys((f"E{number}" for number in range(640, 649)), _OUTSIDE),
    **dict.fromkeys((f"E{number}" for number in range(650, 668) if number != 664), _OUTSIDE),
    **dict.fromkeys(("E670", "E671", "E673", "E674", "E675"), _OUTSIDE),
    "E676": "an environment gets a path of its own, as in the tests of tests/targets/test_gitops.py with one each",
    "E709": _BUG,
    "E714": "a document of another version of mlo, of which there is none to make it with",
    "E900": _BUG,
    "W601": _SERVED,
    "W602": _SERVED,
    "W708": _OTHER_MACHINE,
}
"""Code → why no test follows its remedy."""
