{{- /* What the server's pods and the pod of `helm test` share. */ -}}

{{- /* Where a pod may run, and as whom. */ -}}
{{- define "mlo-model.placed" -}}
serviceAccountName: {{ include "mlo-model.serviceAccount" . }}
automountServiceAccountToken: false
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with .Values.podSecurityContext }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .Values.tolerations }}
{{- if gt (int .Values.accelerators.count) 0 }}
{{- $tolerations = append $tolerations (dict "key" .Values.accelerators.resource "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "mlo-model.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Containers of the values, as restricted as pods have to be where they do not say so themselves. */ -}}
{{- define "mlo-model.otherContainers" -}}
{{- $restricted := dict "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL")) }}
{{- $all := list }}
{{- range . }}
{{- $all = append $all (merge (deepCopy .) (dict "securityContext" (deepCopy $restricted))) }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{- /* With the labels of this release's pods where a constraint names none. */ -}}
{{- define "mlo-model.spread" -}}
{{- $all := list }}
{{- range .Values.topologySpreadConstraints }}
{{- $own := dict }}
{{- if not .labelSelector }}
{{- $_ := set $own "labelSelector" (dict "matchLabels" (include "mlo-model.selectorLabels" $ | fromYaml)) }}
{{- if semverCompare ">=1.27.0-0" $.Capabilities.KubeVersion.Version }}
{{- $_ := set $own "matchLabelKeys" (list "pod-template-hash") }}
{{- end }}
{{- end }}
{{- $all = append $all (merge (deepCopy .) $own) }}
{{- end }}
{{- toYaml $all }}
{{- end }}
