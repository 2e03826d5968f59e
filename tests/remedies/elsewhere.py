"""Codes whose remedy is not followed by a case of `spec_cases` or `test_commands`: the test that does it, or why none does."""

from __future__ import annotations

__all__ = ["FOLLOWED", "NOT_FOLLOWED"]

_VALUES = "tests/remedies/test_values.py"
_MODELS = "tests/remedies/test_models.py::test_a_model_is_imported_once_it_is_changed_as_it_is_told"
_ONNX = "tests/remedies/test_onnx_models.py::test_a_model_is_imported_once_it_is_changed_as_it_is_told"
_FRAMEWORKS = "tests/frameworks"
_DEATHS = "tests/engine/test_causes_of_death.py"
_SWITCHING = "tests/targets/test_switching.py"
_PUSHING = "tests/e2e/test_pushing.py"
_DOCKER = "tests/e2e/test_docker_target.py"
_KUBERNETES = "tests/targets/test_kubernetes"
_SAVED_AGAIN = f"{_FRAMEWORKS}/tensorflow/test_saved_again.py"
_TRANSFORMERS = "tests/remedies/test_transformers_models.py::test_a_model_is_imported_once_it_is_changed_as_it_is_told"

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
    **dict.fromkeys(("E301", "E302", "E360", "E361", "E362", "E363", "E364", "E365"), _ONNX),
    "E346": "tests/remedies/test_onnx_models.py::test_samples_are_corrected_or_the_range_is_widened",
    "E303": "tests/remedies/test_models.py::test_an_object_among_the_weights_is_saved_as_a_state_dict",
    **dict.fromkeys(
        ("E304", "E305", "E306", "E307", "E310", "E311", "E312", "E313", "E314", "E315", "E320", "E321", "E322", "E323", "E324"),
        _MODELS,
    ),
    **dict.fromkeys(("E325", "E326", "E328", "E330", "E331", "E332"), _MODELS),
    "E420": f"{_FRAMEWORKS}/onnx/test_finish.py::test_a_resize_that_the_runtime_lacks_is_done_as_the_message_says",
    "E423": f"{_FRAMEWORKS}/pytorch/test_padding.py::test_a_constant_at_padded_positions_helps",
    "E424": f"{_FRAMEWORKS}/onnx/test_finish.py::test_a_dimension_that_the_conversion_fixed_is_declared_or_read_from_the_shape",
    "E428": f"{_FRAMEWORKS}/pytorch/test_convert.py::test_an_accepted_line_is_frozen_and_said",
    "E308": "tests/remedies/test_models.py::test_a_whole_checkpoint_is_saved_again_as_tensors_by_either_line",
    "E350": f"{_SAVED_AGAIN}::test_the_signature_that_is_named_is_read",
    "E351": f"{_SAVED_AGAIN}::test_lines_of_python_give_a_model_a_signature",
    "E352": f"{_SAVED_AGAIN}::test_what_is_missing_in_a_folder_is_copied",
    **dict.fromkeys(
        ("E353", "E355", "E356", "E358"),
        f"{_SAVED_AGAIN}::test_a_model_is_read_once_it_is_saved_without_what_was_refused",
    ),
    "E354": f"{_SAVED_AGAIN}::test_a_link_in_a_folder_is_replaced_by_the_command_that_is_named",
    "E357": f"{_SAVED_AGAIN}::test_a_keras_model_gets_inputs_in_either_way",
    "E359": f"{_FRAMEWORKS}/tensorflow/test_keras_source.py::test_a_layer_that_is_wrong_for_open_sizes_is_found",
    "E366": f"{_FRAMEWORKS}/litert/test_source.py::test_other_operators_are_refused_by_name_with_two_ways_out",
    "E367": f"{_FRAMEWORKS}/litert/test_source.py::test_operators_that_this_version_does_not_run_are_told_from_a_damaged_file",
    **dict.fromkeys(("E370", "E371", "E372", "E373", "E374", "E375", "E376"), _TRANSFORMERS),
    "E128": f"{_VALUES}::test_a_type_that_is_not_served_is_changed_or_left_out",
    "E141": f"{_VALUES}::test_what_is_no_model_is_given_by_its_kind_or_another_is",
    "E146": "tests/cli/test_init.py::test_nothing_is_written_into_a_models_folder",
    "E203": "tests/engine/test_running_plans.py::test_a_missing_input_names_the_line",
    "E212": "tests/remedies/test_commands.py::test_a_plan_that_is_stale_is_made_again_with_the_command_that_is_named",
    "E219": "tests/remedies/test_commands.py::test_what_was_declined_is_done_with_yes",
    "E401": f"{_DEATHS}::test_the_reproduce_script_runs_the_step_alone",
    "E402": f"{_DEATHS}::test_a_candidate_that_takes_too_long_gets_more_time",
    "E403": "tests/measure/test_sweep.py::test_a_model_that_does_not_fit_is_out_of_memory_at_load",
    "E404": f"{_DEATHS}::test_code_that_ends_the_process_imports_without_that_call",
    "E405": f"{_DEATHS}::test_a_file_that_changes_while_it_is_read_leaves_no_receipt",
    "E407": "tests/engine/test_running_plans.py::test_one_interrupt_lets_a_step_finish",
    "E408": f"{_DEATHS}::test_a_step_runs_once_the_one_before_it_succeeds",
    "E409": f"{_DEATHS}::test_a_refusal_caused_by_a_full_disk_is_reported_as_such_and_not_cached",
    "E440": f"{_VALUES}::test_batch_sizes_that_the_model_takes_are_measured",
    "E481": f"{_VALUES}::test_a_certificate_is_exchanged_as_it_is_told",
    "E482": "tests/render/test_tls.py::test_mlo_asks_by_the_certificate_that_the_server_has",
    "E490": "tests/render/test_artifacts.py::test_more_replicas_than_there_may_be_are_refused_with_what_would_fit",
    **dict.fromkeys(
        ("E603", "E604"),
        f"{_SWITCHING}::test_a_new_revision_that_does_not_start_leaves_the_previous_one_serving",
    ),
    "E605": "tests/engine/test_going_live.py::test_two_stores_do_not_deploy_into_one_folder_at_once",
    "E606": "tests/targets/test_processes.py::test_a_supervisor_of_another_version_is_reported_and_ended_by_the_command_that_is_named",
    "E607": f"{_SWITCHING}::test_a_candidate_takes_no_traffic_before_the_switch_and_none_after_a_drop",
    "E608": "tests/targets/test_golden.py::test_a_wrong_answer_names_output_measure_and_limit",
    "E609": "tests/targets/test_golden.py::test_a_refusal_of_the_server_is_reported_with_its_message",
    "E610": "tests/targets/test_asking.py::test_a_deployment_that_is_stopped_answers_once_it_is_applied_again",
    **dict.fromkeys(("E611", "E612"), "tests/targets/test_asking.py::test_the_servers_reason_is_shown_with_what_helps"),
    "E613": "tests/targets/test_asking.py::test_no_answer_in_time",
    **dict.fromkeys(("E615", "E619"), f"{_SWITCHING}::test_the_first_revision_serves_on_the_endpoint"),
    "E616": f"{_SWITCHING}::test_a_missing_backend_is_reported_before_anything_starts",
    "E617": "tests/targets/test_local_records.py::test_a_record_that_cannot_be_read_names_the_file_and_the_remedy",
    "E621": "tests/targets/test_folder.py::test_a_copy_that_is_not_what_was_rendered_is_dropped",
    "E622": "tests/engine/test_going_live.py::test_what_was_damaged_in_the_store_does_not_serve_again",
    "E625": "tests/render/test_set_servers.py::test_requests_need_a_token_and_probes_none",
    "E422": f"{_FRAMEWORKS}/pytorch/test_convert.py::test_an_unsupported_size_is_reported_as_a_condition",
    "E425": f"{_FRAMEWORKS}/onnx/test_quantize.py::test_an_already_quantized_model_is_refused",
    "E491": "tests/measure/test_inside_containers.py::test_without_an_engine_the_step_says_what_to_do_and_is_tried_again",
    "E501": "tests/optimize/test_service_levels.py::test_a_server_that_refused_requests_can_win_and_says_how_often_it_refused",
    "E502": "tests/optimize/test_nothing_wins.py::test_too_few_rounds_leave_it_undecided_and_more_time_is_the_remedy",
    "E601": "tests/targets/test_processes.py::test_a_supervisor_that_does_not_start_starts_once_what_its_error_output_names_is_corrected",
    "E624": "tests/cli/test_stores.py::test_a_name_that_another_store_serves_is_refused_before_anything_runs",
    **dict.fromkeys(
        ("E630", "E633"), "tests/images/test_failures.py::test_an_engine_that_is_chosen_or_has_space_again_is_asked_to_build"
    ),
    "E635": f"{_PUSHING}::test_a_registry_with_passwords_takes_those_of_dockers_configuration",
    "E636": f"{_PUSHING}::test_a_registry_with_tokens_denies_what_is_not_granted",
    "E637": f"{_PUSHING}::test_a_registry_that_is_not_there_is_named",
    "E634": "tests/e2e/test_images.py::test_a_base_that_cannot_be_had_is_named_until_the_engine_has_it",
    "E639": "tests/e2e/test_images.py::test_packages_that_cannot_be_listed_are_on_a_base_that_is_named",
    "E640": f"{_DOCKER}::test_an_engine_that_is_gone_is_named_before_anything_is_done",
    "E641": f"{_DOCKER}::test_the_same_name_from_another_store_is_refused",
    "E642": f"{_DOCKER}::test_a_container_of_somebody_else_with_our_name_is_not_touched",
    "E643": f"{_DOCKER}::test_a_network_of_the_spec_is_used_and_stays",
    "E644": f"{_DOCKER}::test_a_revision_that_does_not_come_up_leaves_nothing_and_the_former_serving",
    "E646": "tests/e2e/test_docker_front.py::test_a_front_that_takes_no_orders_is_removed_by_the_command_that_is_named",
    "E647": "tests/e2e/test_docker_remote.py::test_a_loopback_of_another_machine_is_refused_with_what_to_set",
    "E648": "tests/targets/test_docker.py::test_an_image_that_was_removed_is_there_once_it_is_built_again",
    "E651": f"{_KUBERNETES}.py::test_a_context_that_does_not_exist_is_named_with_those_that_do",
    **dict.fromkeys(("E652", "E667"), f"{_KUBERNETES}_answers.py::test_a_refusal_is_called_what_it_is"),
    "E653": f"{_KUBERNETES}.py::test_helm_is_found_beside_this_python_where_make_tools_puts_it",
    "E654": f"{_KUBERNETES}.py::test_every_right_that_is_missing_is_named",
    "E655": f"{_KUBERNETES}.py::test_a_missing_namespace_is_refused_unless_it_may_be_made",
    "E660": f"{_KUBERNETES}_target.py::test_a_rollout_that_makes_no_progress_is_given_up_before_all_its_time_is_over",
    "E662": f"{_KUBERNETES}_target.py::test_a_candidate_of_another_chart_is_refused_before_anything_is_computed",
    "E665": f"{_KUBERNETES}.py::test_a_cluster_without_the_gateway_api_is_refused_where_the_spec_needs_it",
    "E671": "tests/targets/test_gitops.py::test_a_file_of_others_where_mlo_would_write_one_is_refused",
    "E673": "tests/targets/test_gitops_forms.py::test_without_helm_manifests_are_refused_before_anything_is_computed",
    "E674": "tests/targets/test_gitops_forms.py::test_what_helm_says_of_a_chart_that_it_refuses_is_the_cause",
    "E675": "tests/targets/test_gitops.py::test_an_image_without_digest_is_refused",
    "E676": "tests/targets/test_gitops_forms.py::test_an_environment_that_needs_a_decision_of_its_own_is_refused",
    "E631": "tests/e2e/test_images.py::test_a_failing_build_shows_the_end_of_its_log_and_leaves_no_container",
    "E632": "tests/remedies/test_commands.py::test_an_image_is_pushed_where_the_registry_that_is_added_says",
    "E645": "tests/e2e/test_docker_front_image.py::test_without_packages_and_programs_it_is_said_what_to_do",
    "E650": f"{_KUBERNETES}.py::test_the_package_for_clusters_is_named_with_the_command_that_installs_it",
    "E656": f"{_KUBERNETES}_fitting.py::test_the_registry_is_asked_for_the_image_with_the_pull_secrets",
    "E657": f"{_KUBERNETES}_fitting.py::test_a_quota_must_have_room_for_the_release_beside_the_one_that_serves",
    **dict.fromkeys(
        ("E658", "E659"), f"{_KUBERNETES}_target.py::test_pods_that_crash_end_a_rollout_and_those_that_run_do_not"
    ),
    "E661": f"{_KUBERNETES}_target.py::test_what_helm_cannot_read_is_asked_for_again_once_it_is_mended",
    "E663": f"{_KUBERNETES}_tls.py::test_the_secret_of_the_certificate_is_looked_at_before_anything_is_computed",
    "E421": f"{_FRAMEWORKS}/pytorch/test_runtimes.py::test_a_model_answers_once_every_output_is_named",
    "E638": "tests/e2e/test_images.py::test_no_password_of_an_index_gets_into_layers_or_history_and_the_build_needs_no_network",
    "E614": f"{_VALUES}::test_inputs_of_a_request_are_given_as_the_message_spells_them",
    "E618": f"{_VALUES}::test_another_port_is_set_where_one_is_taken",
    "E620": f"{_VALUES}::test_a_folder_that_is_in_use_is_exchanged_or_emptied",
    "E672": "tests/targets/test_gitops_forms.py::test_files_for_argo_cd_and_flux_need_a_repository",
    "E627": "tests/release/test_canary.py::test_a_way_that_is_disturbed_says_nothing_of_a_revision_and_it_passes_once_it_is_not",
    "E626": "tests/release/test_canary.py::test_a_slow_revision_is_refused_with_the_figures_and_passes_once_it_is_as_fast",
    "E666": f"{_KUBERNETES}_answers.py::test_connections_to_a_pod_are_forwarded_once_the_cluster_reaches_its_kubelet",
    "E668": "tests/targets/test_kubernetes_kserve.py::test_a_deployment_does_not_become_an_inference_service_while_it_serves",
    "E678": "tests/targets/test_gitops_kserve.py::test_a_route_beside_an_inference_service_is_refused_until_the_remedy_is_followed",
    "E680": "tests/cli/test_benchmark.py::test_the_url_of_a_model_is_told_and_then_measured",
    "E701": "tests/store/test_full_disk.py::test_a_full_disk_is_reported_with_what_to_do_and_loses_nothing",
    "E703": "tests/store/test_locks.py::test_a_waiting_process_is_told_the_holder_once_and_then_gets_the_lock",
    "E714": "tests/engine/test_running_plans.py::test_a_document_of_another_version_is_written_anew_by_the_replacement_that_is_named",
    "E202": "tests/optimize/test_server_settings.py::test_a_missing_package_for_traces_is_told_while_planning",
    "E205": "tests/plan/test_plans_on_gpus.py::test_a_machine_with_fewer_gpus_says_how_many_it_has",
    "W602": "tests/engine/test_going_live.py::test_a_rollback_that_fails_says_what_serves",
    "W708": "tests/store/test_locks.py::test_a_folder_in_which_flock_does_not_exclude_causes_a_warning",
    "E706": f"{_VALUES}::test_a_link_in_a_model_is_replaced_by_the_file",
}  # fmt: skip
"""Code → the test in which the remedy is followed and the refusal goes away."""


_OTHER_MACHINE = "it needs another machine, package or driver, which a test cannot bring"
_FATE = "it is the fate of a candidate, which the run goes on without; there is nothing to do"
_BUG = "it is a bug of mlo or of a step, for which nobody but its author can do anything"
_ENDED = "it says that the user ended the command; running it again is all that there is to do"
_SERVED = "what serves is told, and nothing is to be done about it"
_OUTSIDE = "what is outside of mlo has to change: a server, a network, a cluster or another program"
_LOG = "the reason is in the log that it names; what to do depends on it"

NOT_FOLLOWED = {
    "E406": _ENDED,
    "E426": _FATE,
    "E427": _OTHER_MACHINE,
    "E451": _BUG,
    "E452": _BUG,
    "E709": _BUG,
    "E900": _BUG,
    "W601": _SERVED,
}
"""Code → why no test follows its remedy."""
