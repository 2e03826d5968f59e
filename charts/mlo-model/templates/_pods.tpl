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

{{- /* A pod of the server, in a Deployment or as the predictor of KServe, which takes one port and names the container. */ -}}
{{- define "mlo-model.pod" -}}
{{- $server := .Values.image.server }}
{{- $drain := max .Values.shutdown.drainSeconds $server.drainSeconds }}
{{- $preStop := sub $drain $server.drainSeconds }}
{{- $kserve := .Values.inferenceService.enabled }}
{{- $http := $kserve | ternary "http1" "http" }}
{{- $oip := and $kserve (hasPrefix "/v2/" $server.inferPath) }}
{{- include "mlo-model.placed" . }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- include "mlo-model.spread" $ | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: {{ add $drain .Values.shutdown.requestSeconds 5 }}
{{- with .Values.initContainers }}
initContainers:
  {{- include "mlo-model.otherContainers" . | nindent 2 }}
{{- end }}
containers:
  - name: {{ include "mlo-model.containerName" . }}
    image: {{ include "mlo-model.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    securityContext:
      {{- include "mlo-model.containerSecurity" . | nindent 6 }}
    {{- if or .Values.traces.endpoint .Values.env $oip }}
    env:
      {{- if $oip }}
      # How KServe knows that this container speaks the Open Inference Protocol.
      - name: PROTOCOL
        value: v2
      {{- end }}
      {{- with .Values.traces.endpoint }}
      - name: OTEL_EXPORTER_OTLP_ENDPOINT
        value: {{ . | quote }}
      {{- end }}
      {{- with .Values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
    {{- with .Values.envFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - name: {{ $http }}
        containerPort: {{ $server.port }}
        protocol: TCP
      {{- if and $server.grpcPort (not $kserve) }}
      - name: grpc
        containerPort: {{ $server.grpcPort }}
        protocol: TCP
      {{- end }}
      {{- if and (ne (int $server.metricsPort) (int $server.port)) (not $kserve) }}
      - name: metrics
        containerPort: {{ $server.metricsPort }}
        protocol: TCP
      {{- end }}
    resources:
      requests:
        cpu: {{ .Values.resources.requests.cpu | quote }}
        memory: {{ .Values.resources.requests.memory | quote }}
      limits:
        {{- with .Values.resources.limits.cpu }}
        cpu: {{ . | quote }}
        {{- end }}
        memory: {{ .Values.resources.limits.memory | quote }}
        {{- if gt (int .Values.accelerators.count) 0 }}
        {{ .Values.accelerators.resource }}: {{ .Values.accelerators.count }}
        {{- end }}
    # Time to load and warm up, at least a minute; the other probes start afterwards.
    startupProbe:
      httpGet:
        path: {{ $server.readyPath | quote }}
        port: {{ $http }}
        {{- if $.Values.tls.certificate }}
        scheme: HTTPS
        {{- end }}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: {{ max 12 (div (add .Values.probes.startupSeconds 4) 5) }}
    # Several failures in a row, because a briefly full queue is no reason to redirect requests.
    readinessProbe:
      httpGet:
        path: {{ $server.readyPath | quote }}
        port: {{ $http }}
        {{- if $.Values.tls.certificate }}
        scheme: HTTPS
        {{- end }}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: {{ .Values.probes.readyFailures }}
    livenessProbe:
      {{- if $server.livePath }}
      httpGet:
        path: {{ $server.livePath | quote }}
        port: {{ $http }}
        {{- if $.Values.tls.certificate }}
        scheme: HTTPS
        {{- end }}
      {{- else }}
      tcpSocket:
        port: {{ $http }}
      {{- end }}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    {{- if gt (int $preStop) 0 }}
    # Traffic is routed elsewhere while the server still answers.
    lifecycle:
      preStop:
        {{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}
        sleep:
          seconds: {{ $preStop }}
        {{- else }}
        exec:
          command: [sleep, {{ $preStop | quote }}]
        {{- end }}
    {{- end }}
    volumeMounts:
      - name: temporary
        mountPath: /tmp
      {{- with .Values.auth.tokenFile }}
      # A folder, not a file of it: so the server sees new tokens.
      - name: tokens
        mountPath: {{ dir . | quote }}
        readOnly: true
      {{- end }}
      {{- with .Values.tls.certificate }}
      - name: certificate
        mountPath: {{ dir . | quote }}
        readOnly: true
      {{- end }}
      {{- with .Values.volumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- with .Values.sidecars }}
  {{- include "mlo-model.otherContainers" . | nindent 2 }}
  {{- end }}
volumes:
  - name: temporary
    emptyDir:
      sizeLimit: {{ .Values.resources.temporary | quote }}
  {{- if .Values.auth.tokenFile }}
  - name: tokens
    secret:
      secretName: {{ .Values.auth.secret | quote }}
      # The files belong to root, and which user reads them is the cluster's choice.
      defaultMode: 0444
      items:
        - key: {{ base .Values.auth.tokenFile | quote }}
          path: {{ base .Values.auth.tokenFile | quote }}
  {{- end }}
  {{- if .Values.tls.certificate }}
  - name: certificate
    secret:
      secretName: {{ .Values.tls.secret | quote }}
      defaultMode: 0444
      items:
        {{- range list .Values.tls.certificate .Values.tls.key }}
        - key: {{ base . | quote }}
          path: {{ base . | quote }}
        {{- end }}
  {{- end }}
  {{- with .Values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "mlo-model.containerName" -}}
{{- .Values.inferenceService.enabled | ternary "kserve-container" "server" }}
{{- end }}
